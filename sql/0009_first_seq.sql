-- The first message of each room that is held: what is above it has no hole, so whoever reads needs to ask for nothing else.
-- Retention raises it in the transaction that drops what is below; last_seq + 1 when nothing is held.

ALTER TABLE rooms ADD COLUMN first_seq bigint NOT NULL DEFAULT 1;

-- Where retention has dropped something: behind the last hole. What is left below goes the next time that retention is applied.
UPDATE rooms SET first_seq = coalesce((
    SELECT max(seq) FROM (
        SELECT seq, lag(seq) OVER (ORDER BY seq) AS before FROM messages WHERE messages.room_id = rooms.room_id
    ) AS pairs WHERE before IS DISTINCT FROM seq - 1
), last_seq + 1)
WHERE last_seq > 0
  AND (SELECT min(seq) FROM messages WHERE messages.room_id = rooms.room_id) IS DISTINCT FROM 1;


-- What was held just before the refresh: while both sums are the same, nothing was stored or dropped since.

ALTER TABLE view_refreshes ADD COLUMN first_seqs bigint, ADD COLUMN last_seqs bigint;
