-- One membership: a run of an instance has one row, `instances`, and one beat; its fan-out queue and its members in rooms belong to it.
--
-- The previous version, which may run beside this one during an update, has a second row for presence, in `presence_instances`, reads
-- only what is fresh there, and its members reference it. So the table stays, and a trigger keeps it for runs of this version: either
-- version sees the members of both. What reads presence reads the view. Once no instance of the previous version can run any more,
-- a later release drops trigger and table, references `instances` from `presence`, and takes the time in the view from there.
-- (Rows of instances of the previous version that died are left behind in `presence_instances`; they are too old to count.)

CREATE FUNCTION keep_presence_instance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM presence_instances WHERE server_id = OLD.server_id AND start = OLD.start;
    ELSE
        INSERT INTO presence_instances (server_id, start, seen_at) VALUES (NEW.server_id, NEW.start, NEW.heartbeat_at)
        ON CONFLICT (server_id, start) DO UPDATE SET seen_at = excluded.seen_at;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER keep_presence_instance AFTER INSERT OR DELETE OR UPDATE OF heartbeat_at ON instances
FOR EACH ROW EXECUTE FUNCTION keep_presence_instance();

-- The members of every run, living or not, with the time of its last beat.
CREATE VIEW presence_of_runs AS
SELECT server_id, start, room_id, members, users, truncated, seen_at FROM presence JOIN presence_instances USING (server_id, start);
