-- Who is in which room, on which running instance. Unlogged: after a crash of the server every instance writes anew, so there is
-- nothing to recover; and members come and go too often to be worth a write-ahead log.

CREATE UNLOGGED TABLE presence_instances (
    server_id  text        NOT NULL,
    start      text        NOT NULL,  -- differs for each start of one server
    seen_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (server_id, start)
)
-- Rewritten by every beat.
WITH (fillfactor = 50);


CREATE UNLOGGED TABLE presence (
    server_id  text     NOT NULL,
    start      text     NOT NULL,
    room_id    integer  NOT NULL,
    members    integer  NOT NULL,  -- connections, exactly
    users      jsonb    NOT NULL,  -- [[userId, username, connections], ...] of those that have said who they are
    truncated  boolean  NOT NULL,  -- whether there are more users than that
    PRIMARY KEY (server_id, start, room_id),
    FOREIGN KEY (server_id, start) REFERENCES presence_instances ON DELETE CASCADE
);
