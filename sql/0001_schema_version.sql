-- Which numbered files this database has. chatflow-admin migrate (and the daemon on its embedded server) adds a row per
-- file, in the file's own transaction.

CREATE TABLE schema_version (
    version     integer     PRIMARY KEY,
    name        text        NOT NULL,
    -- SHA-256 of the file: a file that was edited after it had been applied is refused, because this database then has
    -- something else than the file says.
    checksum    text        NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now()
);
