-- Finds a message that a client repeats under the same clientMessageId: such messages have an id that is derived from room,
-- user and clientMessageId. Others (the predicate) cost nothing.

CREATE INDEX messages_client_message ON messages (message_id) WHERE client_message_id IS NOT NULL;
