-- A user's messages in all rooms, newest first: GET /api/users/{id}/messages and the analytics of one user.

CREATE INDEX messages_user ON messages (user_id, created_at);


-- When each view was refreshed, so that instances make one refresh per interval together, and anybody can tell the age.

CREATE TABLE view_refreshes (
    view_name     text        PRIMARY KEY,
    refreshed_at  timestamptz NOT NULL,
    seconds       real        NOT NULL,  -- how long it took
    server_id     text        NOT NULL   -- who did it
);
