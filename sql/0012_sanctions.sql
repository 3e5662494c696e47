-- What operators ordered against users, addresses and rooms. The previous version knows nothing of it and lives on beside it.
--
-- One row for each order and its subject, the newest: to order it again replaces it. A subject is whoever meets all of its parts
-- that are not NULL. Every instance asks for max(changed_at), each second or two, and reads the rows when that has changed.

CREATE TABLE sanctions (
    action      text        NOT NULL CHECK (action IN ('disconnect', 'mute', 'ban')),
    user_id     integer,
    network     cidr,
    room_id     integer,
    reason      text        NOT NULL,
    ordered_by  text        NOT NULL,
    ordered_at  timestamptz NOT NULL,
    ends_at     timestamptz,           -- NULL: until it is lifted
    lifted_by   text,                  -- who ended it early
    changed_at  timestamptz NOT NULL,  -- unique, and later than that of every earlier change, whatever the clock does
    CHECK (num_nonnulls(user_id, network, room_id) > 0),
    UNIQUE NULLS NOT DISTINCT (action, user_id, network, room_id)
);

CREATE UNIQUE INDEX sanctions_changed_at ON sanctions (changed_at);
