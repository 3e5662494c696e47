-- Which programs work with this schema although it is newer than theirs.
--
-- A deploy runs the previous version beside the new one, starts it again where it dies, and goes back to it where the new
-- one disappoints. A migration that the previous version cannot live with any more raises the number, which belongs to
-- the release behind the one that stopped to need what the migration takes away:
--     UPDATE oldest_program SET schema_version = 17;

CREATE TABLE oldest_program (
    single         boolean PRIMARY KEY DEFAULT true CHECK (single),  -- there is one row
    schema_version integer NOT NULL                                  -- of the newest file that such a program has
);

INSERT INTO oldest_program (schema_version) VALUES (13);
