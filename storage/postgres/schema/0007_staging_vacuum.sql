-- Vacuum of the staging tables keeps pace with a busy server's churn. With the usual pauses a round through
-- some gigabytes of bodies takes minutes, in which as much again is staged. Storage parameters only.

ALTER TABLE staged_frames SET (autovacuum_vacuum_cost_delay = 0, toast.autovacuum_vacuum_cost_delay = 0);
ALTER TABLE staged_contents SET (autovacuum_vacuum_cost_delay = 0);
