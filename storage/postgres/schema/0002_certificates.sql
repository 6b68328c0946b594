-- Who may order certificates, and what has been tried. New tables only: nodes of the version before this
-- one do not know them and go on.

-- A row stays for ever: its fence may never fall back.
CREATE TABLE leases (
    name        text PRIMARY KEY,
    holder      text NOT NULL,
    fence       bigint NOT NULL,
    expires_at  timestamptz NOT NULL
);

CREATE TABLE certificate_attempts (
    ca                text NOT NULL,
    wanted_id         text NOT NULL,
    failures          integer NOT NULL,
    blocked_until     timestamptz,
    blocked_why       text NOT NULL,
    last_failure      text NOT NULL,
    last_failure_at   timestamptz,
    last_success_at   timestamptz,
    renew_at          timestamptz,
    renew_checked_at  timestamptz,
    retry_after       timestamptz,
    PRIMARY KEY (ca, wanted_id)
);

CREATE TABLE certificate_notes (
    ca        text NOT NULL,
    what      text NOT NULL,
    subject   text NOT NULL,
    noted_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX certificate_notes_counted ON certificate_notes (ca, what, subject, noted_at);
CREATE INDEX certificate_notes_age ON certificate_notes (noted_at);
