-- Exact counts, written in the transaction of the messages that they count. A recount from messages gives the same, at any
-- moment and however often a queue delivers. In each row message_count = text_count + join_count + leave_count.

CREATE TABLE user_activity (
    user_id         integer     NOT NULL,
    room_id         integer     NOT NULL,
    username        text        NOT NULL,  -- the one of the user's newest message in the room
    message_count   bigint      NOT NULL,
    text_count      bigint      NOT NULL,
    join_count      bigint      NOT NULL,
    leave_count     bigint      NOT NULL,
    first_activity  timestamptz NOT NULL,
    last_activity   timestamptz NOT NULL,
    PRIMARY KEY (user_id, room_id)
)
-- No indexed column ever changes, so an update that finds room on its page touches no index (HOT).
WITH (fillfactor = 70);


CREATE TABLE message_stats_minute (
    room_id        integer     NOT NULL,
    minute         timestamptz NOT NULL,  -- start of the minute of the messages' created_at
    message_count  bigint      NOT NULL,
    text_count     bigint      NOT NULL,
    join_count     bigint      NOT NULL,
    leave_count    bigint      NOT NULL,
    PRIMARY KEY (room_id, minute)
)
-- The current minute's rows are rewritten by every batch.
WITH (fillfactor = 50);
