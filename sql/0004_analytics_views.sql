-- What the analytics API answers from. Refreshed by one instance at a time (REFRESH ... CONCURRENTLY), never per request.
-- All four read the rollups, never messages: their cost follows the number of users and minutes, not of messages.
-- They are created populated (on empty tables, so at no cost): an unpopulated view can be neither read nor refreshed
-- concurrently. Each has the unique index that a concurrent refresh needs. Readers sort: a view has no order.

CREATE MATERIALIZED VIEW mv_top_users AS
SELECT user_id,
       (array_agg(username ORDER BY last_activity DESC, room_id))[1] AS username,
       sum(message_count)::bigint                                    AS total_messages,
       count(*)                                                      AS rooms_participated
FROM user_activity
GROUP BY user_id
ORDER BY total_messages DESC, user_id
LIMIT 100;

CREATE UNIQUE INDEX mv_top_users_key ON mv_top_users (user_id);


CREATE MATERIALIZED VIEW mv_top_rooms AS
SELECT room_id,
       sum(message_count)::bigint AS total_messages,
       count(*)                   AS unique_users
FROM user_activity
GROUP BY room_id;

CREATE UNIQUE INDEX mv_top_rooms_key ON mv_top_rooms (room_id);


-- Hours of UTC, whatever the session's time zone is (some zones are off by half an hour).
CREATE MATERIALIZED VIEW mv_hourly_stats AS
SELECT date_trunc('hour', minute, 'UTC') AS hour,
       sum(message_count)::bigint        AS total_messages,
       sum(text_count)::bigint           AS text_messages,
       sum(join_count)::bigint           AS join_events,
       sum(leave_count)::bigint          AS leave_events,
       count(DISTINCT room_id)           AS active_rooms
FROM message_stats_minute
GROUP BY 1;

CREATE UNIQUE INDEX mv_hourly_stats_key ON mv_hourly_stats (hour);


CREATE MATERIALIZED VIEW mv_user_participation AS
SELECT user_id,
       (array_agg(username ORDER BY last_activity DESC, room_id))[1] AS username,
       sum(message_count)::bigint                                    AS total_messages,
       sum(text_count)::bigint                                       AS text_messages,
       sum(join_count)::bigint                                       AS join_events,
       sum(leave_count)::bigint                                      AS leave_events,
       array_agg(room_id ORDER BY room_id)                           AS rooms
FROM user_activity
GROUP BY user_id;

CREATE UNIQUE INDEX mv_user_participation_key ON mv_user_participation (user_id);
