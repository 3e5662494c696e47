-- The running instances of a cluster: who is alive, and what each must have removed in AWS once it is dead.

CREATE TABLE instances (
    server_id     text        NOT NULL,
    start         text        NOT NULL,  -- differs for each start of one server
    fanout_queue  text        NOT NULL,  -- name of its SQS queue; written before the queue is made, so none is ever unknown
    started_at    timestamptz NOT NULL DEFAULT now(),
    heartbeat_at  timestamptz NOT NULL DEFAULT now(),
    claimed_at    timestamptz,           -- when a reaper took it on, so that two do not work on the same one
    PRIMARY KEY (server_id, start)
)
-- Heartbeats rewrite the rows all the time.
WITH (fillfactor = 50);
