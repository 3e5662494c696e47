-- What is asked about a range of time and nothing else: how many were active, how much was sent.

-- Messages are stored in the order of time but for moments, so a few bytes for each 32 pages say where a range lies; no index
-- that a commit would notice. Pages of today that are not yet summarized are read in any case.
CREATE INDEX messages_created ON messages USING brin (created_at) WITH (pages_per_range = 32, autosummarize = on);

-- For all rooms together, and for retention. A row's minute never changes, so an update stays on its page.
CREATE INDEX message_stats_minute_minute ON message_stats_minute (minute);
