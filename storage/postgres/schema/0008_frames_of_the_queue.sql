-- Frames belong to the row of the queue, not to the content. An uploader that marks a content as stored while
-- an append brings its frames from another node's disk into the database deletes the row as the append left
-- it, but sees no frame of it: its snapshot is older. The cascade looks again once the row is deleted.
-- Frames that were left behind in that way go here; nobody reads them, their content is in the object store.

DELETE FROM staged_frames f WHERE NOT EXISTS (SELECT FROM staged_contents g WHERE g.content_id = f.content_id);
ALTER TABLE staged_frames DROP CONSTRAINT staged_frames_content_id_fkey,
    ADD FOREIGN KEY (content_id) REFERENCES staged_contents (content_id) ON DELETE CASCADE;
