-- A room's head: what the next batch needs to number its messages, and to recognise an envelope that a queue delivers
-- again. Locked and rewritten by every batch, in the messages' own transaction.

CREATE TABLE rooms (
    room_id           integer     PRIMARY KEY,
    -- Sequence number of the room's newest message; 0 before the first. The messages of a room are 1, 2, 3, ... without a hole.
    last_seq          bigint      NOT NULL DEFAULT 0,
    -- Ids of the last 64 envelopes, oldest first. A FIFO group redelivers at most 10, so 64 is ample; and the table does not
    -- grow with traffic.
    recent_envelopes  uuid[]      NOT NULL DEFAULT '{}',
    last_activity     timestamptz
)
-- Room for the next version of a row on its own page: no index changes, and pages are pruned as they are read (HOT).
WITH (fillfactor = 50);


-- Partitioned by day of the server's time, so that retention drops files instead of deleting rows. Days are created ahead
-- by the daemon (chatflow/persistence/partitions.py); nothing here depends on today's date.
-- Fixed-width columns come first, in an order that needs no padding.

CREATE TABLE messages (
    room_id            integer     NOT NULL,
    user_id            integer     NOT NULL,
    seq                bigint      NOT NULL,
    created_at         timestamptz NOT NULL,  -- the server's time, given at ingress
    client_timestamp   timestamptz NOT NULL,  -- what the client said; its digits after the microsecond are lost
    message_id         uuid        NOT NULL,  -- as in the ack and the broadcast
    username           text        NOT NULL,
    message_text       text        NOT NULL,
    message_type       text        NOT NULL,  -- TEXT, JOIN, LEAVE: the edge lets nothing else through
    server_id          text        NOT NULL,  -- the instance that accepted the message
    client_ip          inet,                  -- stored, never broadcast
    client_message_id  text,                  -- the client's own id: makes a resend after a reconnect harmless
    -- A partitioned table's key must hold the partition column; (room_id, seq) is unique by itself, because a room's head
    -- gives each number once.
    PRIMARY KEY (room_id, seq, created_at)
) PARTITION BY RANGE (created_at);

-- Takes the messages of a day that has no partition, so that a missing partition never fails a batch.
CREATE TABLE messages_default PARTITION OF messages DEFAULT;


-- Envelopes that the database refused for good, without blocking the rest of their room.

CREATE TABLE dead_letters (
    id               bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    room_id          integer     NOT NULL,
    envelope_id      uuid        NOT NULL UNIQUE,  -- a second refusal of the same envelope updates its row
    payload          text        NOT NULL,         -- the envelope as it came from the queue
    reason           text        NOT NULL,
    attempts         integer     NOT NULL DEFAULT 1,
    first_failed_at  timestamptz NOT NULL DEFAULT now(),
    last_failed_at   timestamptz NOT NULL DEFAULT now()
);
