"""What the rollups ``user_activity`` and ``message_stats_minute`` count, for all who make, correct or check them."""

from __future__ import annotations

#: Of a group of messages, beside ``message_count``: the columns by type.
COUNTS_BY_TYPE = ", ".join(
    f"count(*) FILTER (WHERE message_type = '{name}') AS {name.lower()}_count" for name in ("TEXT", "JOIN", "LEAVE")
)
