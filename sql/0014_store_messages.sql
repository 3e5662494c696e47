-- A commit in one round trip: numbers a batch of messages, stores and counts them, and remembers their envelopes. PostgreSQL keeps the
-- plans of a function for as long as the session lives; sent as statements they took longer to plan than to run.
--
-- Nothing is done, and NULL returned, if more has to be known first: a room has no head, its head remembers one of the envelopes,
-- or something is stored under one of the names. Whoever calls it then takes the long way (chatflow/persistence/commit.py).
--
-- Whoever holds the lock of a room's head is alone with all that is counted of the room, so what is not found can be inserted.
--
-- The previous version, which does the same in statements of its own, locks the same heads in the same order. A later version that
-- needs other arguments makes another function, and drops this one when no version that calls it can run any more.

CREATE FUNCTION time_of(microseconds bigint) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
-- Two steps, since an interval is multiplied as a floating-point number: each of them is exact until the year 9999.
RETURN timestamptz 'epoch' + microseconds / 1000000 * interval '1 second' + microseconds % 1000000 * interval '1 microsecond';


CREATE FUNCTION store_messages(
    -- Of each room, in ascending order, as heads are locked:
    new_rooms          integer[],
    new_starts         integer[],      -- the place of its first message among those below, which go room by room
    new_counts         integer[],      -- how many they are
    new_latest         bigint[],       -- the newest of their times
    new_envelopes      text[],         -- the ids of its envelopes, separated by spaces
    -- Of each message, in the order in which a room's are numbered:
    new_ids            uuid[],
    new_times          bigint[],       -- of creation, in microseconds since 1970
    new_client_times   timestamptz[],
    new_users          integer[],
    new_usernames      text[],
    new_types          text[],
    new_servers        text[],
    new_addresses      text[],         -- empty for none
    new_names          text[],         -- the clients' own ids; empty for none
    new_texts          text[],
    -- Between which ids, both included, lies what was sent under the same name, and since when it counts, as new_times:
    names_low          uuid[],
    names_high         uuid[],
    names_since        bigint
)
RETURNS bigint[]                       -- of each room its last seq before
LANGUAGE plpgsql
-- The arrays are as long as they are, whatever the planner takes for granted; and few rows are looked up in large tables.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    heads     bigint[];
    is_known  boolean;
BEGIN
    -- Neither role nor database may have turned that off. What is stronger, as remote_apply, stays.
    IF current_setting('synchronous_commit') IN ('off', 'local') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;

    SELECT array_agg(last_seq ORDER BY room_id),
           bool_or(recent_envelopes && string_to_array(new_envelopes[array_position(new_rooms, room_id)], ' ')::uuid[])
    INTO heads, is_known
    FROM (
        SELECT room_id, last_seq, recent_envelopes FROM rooms WHERE room_id = ANY (new_rooms) ORDER BY room_id FOR UPDATE
    ) AS locked;
    IF is_known OR coalesce(cardinality(heads), 0) < cardinality(new_rooms) THEN
        RETURN NULL;
    END IF;

    IF cardinality(names_low) > 0 THEN
        -- As whoever makes or drops partitions: the whole before its parts.
        LOCK TABLE ONLY messages IN ROW EXCLUSIVE MODE;
        -- Planned anew, for the days in question alone.
        EXECUTE 'SELECT EXISTS (
            SELECT FROM unnest($1, $2) AS name (low, high) CROSS JOIN LATERAL (
                SELECT FROM messages
                WHERE message_id BETWEEN name.low AND name.high AND client_message_id IS NOT NULL AND created_at >= $3
                LIMIT 1
            ) AS stored)'
        INTO is_known USING names_low, names_high, time_of(names_since);
        IF is_known THEN
            RETURN NULL;
        END IF;
    END IF;

    INSERT INTO messages (room_id, seq, created_at, message_id, user_id, username, message_text, message_type,
                          server_id, client_ip, client_timestamp, client_message_id)
    SELECT new_rooms[room], heads[room] + place - new_starts[room] + 1, time_of(at), id, user_id, username, message_text,
           message_type, server_id, nullif(address, '')::inet, client_time, nullif(name, '')
    FROM (
        SELECT place, width_bucket(place, new_starts) AS room, id, at, client_time, user_id, username, message_type, server_id,
               address, name, message_text
        FROM (
            SELECT generate_series(1, cardinality(new_ids)) AS place, unnest(new_ids) AS id, unnest(new_times) AS at,
                   unnest(new_client_times) AS client_time, unnest(new_users) AS user_id,
                   unnest(new_usernames) AS username, unnest(new_types) AS message_type,
                   unnest(new_servers) AS server_id, unnest(new_addresses) AS address, unnest(new_names) AS name,
                   unnest(new_texts) AS message_text
        ) AS given
    ) AS placed;

    MERGE INTO user_activity AS known
    USING (
        SELECT user_id, new_rooms[room] AS room_id, (array_agg(username ORDER BY place DESC))[1] AS username,
               count(*) AS message_count, count(*) FILTER (WHERE message_type = 'TEXT') AS text_count,
               count(*) FILTER (WHERE message_type = 'JOIN') AS join_count,
               count(*) FILTER (WHERE message_type = 'LEAVE') AS leave_count,
               time_of(min(at)) AS first_activity, time_of(max(at)) AS last_activity
        FROM (
            SELECT place, width_bucket(place, new_starts) AS room, at, user_id, username, message_type
            FROM (
                SELECT generate_series(1, cardinality(new_ids)) AS place, unnest(new_times) AS at,
                       unnest(new_users) AS user_id, unnest(new_usernames) AS username, unnest(new_types) AS message_type
            ) AS given
        ) AS placed
        GROUP BY user_id, room
    ) AS fresh ON known.user_id = fresh.user_id AND known.room_id = fresh.room_id
    WHEN MATCHED THEN UPDATE SET
        username = fresh.username,
        message_count = known.message_count + fresh.message_count,
        text_count = known.text_count + fresh.text_count,
        join_count = known.join_count + fresh.join_count,
        leave_count = known.leave_count + fresh.leave_count,
        first_activity = least(known.first_activity, fresh.first_activity),
        last_activity = greatest(known.last_activity, fresh.last_activity)
    WHEN NOT MATCHED THEN INSERT
        (user_id, room_id, username, message_count, text_count, join_count, leave_count, first_activity, last_activity)
    VALUES
        (fresh.user_id, fresh.room_id, fresh.username, fresh.message_count, fresh.text_count, fresh.join_count,
         fresh.leave_count, fresh.first_activity, fresh.last_activity);

    MERGE INTO message_stats_minute AS known
    USING (
        SELECT new_rooms[room] AS room_id, time_of(minute * 60000000) AS minute, count(*) AS message_count,
               count(*) FILTER (WHERE message_type = 'TEXT') AS text_count,
               count(*) FILTER (WHERE message_type = 'JOIN') AS join_count,
               count(*) FILTER (WHERE message_type = 'LEAVE') AS leave_count
        FROM (
            SELECT width_bucket(place, new_starts) AS room, at / 60000000 AS minute, message_type
            FROM (
                SELECT generate_series(1, cardinality(new_ids)) AS place, unnest(new_times) AS at,
                       unnest(new_types) AS message_type
            ) AS given
        ) AS placed
        GROUP BY room, placed.minute
    ) AS fresh ON known.room_id = fresh.room_id AND known.minute = fresh.minute
    WHEN MATCHED THEN UPDATE SET
        message_count = known.message_count + fresh.message_count,
        text_count = known.text_count + fresh.text_count,
        join_count = known.join_count + fresh.join_count,
        leave_count = known.leave_count + fresh.leave_count
    WHEN NOT MATCHED THEN INSERT (room_id, minute, message_count, text_count, join_count, leave_count) VALUES
        (fresh.room_id, fresh.minute, fresh.message_count, fresh.text_count, fresh.join_count, fresh.leave_count);

    UPDATE rooms SET
        last_seq = last_seq + fresh.count,
        -- The last 64; a slice may begin before the first.
        recent_envelopes = (recent_envelopes || ids)[cardinality(recent_envelopes) + cardinality(ids) - 63 :],
        last_activity = greatest(last_activity, time_of(latest))
    FROM (
        SELECT unnest(new_rooms) AS room_id, unnest(new_counts) AS count, unnest(new_latest) AS latest,
               string_to_array(unnest(new_envelopes), ' ')::uuid[] AS ids
    ) AS fresh
    WHERE rooms.room_id = fresh.room_id;
    RETURN heads;
END
$$;
