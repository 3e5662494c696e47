"""``/health``, ``/metrics`` and ``/db-metrics``: one instance's figures. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen


@frozen(kw_only=True)
class InstanceFigures:
    """What these routes tell of an instance, counted since its start unless they are of now.

    :ivar at_ms: milliseconds since the epoch.
    :ivar consuming: whether its consumer runs.
    :ivar draining: whether it stops, or is about to.
    :ivar database_available: whether the database answered last time.
    :ivar connections: open now. :ivar members: of each room now, of rooms with any.
    :ivar pending: accepted and not answered now.
    :ivar acknowledged: messages that are durable; ``acks_sent``: those whose sender was still there to be told.
    :ivar delivered: broadcasts, times members; ``deliveries_failed`` likewise.
    :ivar consumed, redelivered, dead_lettered: envelopes that this instance's consumer settled.
    :ivar stored: committed rows. :ivar not_stored: envelopes that the database refused for good.
    """

    server_id: str
    at_ms: int
    consuming: bool
    draining: bool
    database_available: bool
    connections: int
    members: Mapping[int, int]
    received: int
    refused: int
    pending: int
    acknowledged: int
    acks_sent: int
    envelopes: int
    delivered: int
    deliveries_failed: int
    consumed: int
    redelivered: int
    dead_lettered: int
    stored: int
    not_stored: int

    @property
    def is_up(self) -> bool:
        """Whether it works on messages and takes clients; the database does not count, as with the original."""
        return self.consuming and not self.draining


def health(figures: InstanceFigures) -> dict[str, object]:
    """``/health``"""
    return {
        **_who(figures),
        "sqsHealthy": figures.consuming,
        "consumerHealthy": figures.consuming,
        "writeManagerHealthy": not figures.draining,
        "databaseHealthy": figures.database_available,
        "databaseConfigured": True,
        "status": "UP" if figures.is_up else "DOWN",
    }


def metrics(figures: InstanceFigures) -> dict[str, object]:
    """``/metrics``; ``messagesBroadcast`` counts deliveries."""
    return {
        **_who(figures),
        "handler": {
            "messagesReceived": figures.received,
            "messagesPublished": figures.acknowledged,
            "messagesFailed": figures.refused,
            "acksSent": figures.acks_sent,
            "acksFailed": figures.acknowledged - figures.acks_sent,
        },
        "sqs": {"messagesSent": figures.envelopes},
        "consumer": {
            "messagesProcessed": figures.consumed,
            "messagesFailed": figures.dead_lettered,
            "messagesDeletedWithoutBroadcast": figures.redelivered,
            "isRunning": figures.consuming,
        },
        "rooms": {
            "totalSessions": sum(figures.members.values()),
            "activeRooms": len(figures.members),
            "messagesBroadcast": figures.delivered,
            "broadcastFailures": figures.deliveries_failed,
            "roomStats": {str(room): count for room, count in figures.members.items()},
        },
        "writeManager": {
            "messagesSent": figures.delivered + figures.acks_sent,
            "messagesQueued": figures.pending,
            "messagesDropped": 0,
            "writeErrors": figures.deliveries_failed,
            "activeSessions": figures.connections,
            "activeWriterThreads": 1,
        },
    }


def database_metrics(figures: InstanceFigures) -> dict[str, object]:
    """``/db-metrics``"""
    return {
        **_who(figures),
        "persistence": {
            "messages_inserted": figures.stored,
            "insert_errors": figures.not_stored,
            "user_activity_updates": figures.stored,
        },
    }


def _who(figures: InstanceFigures) -> dict[str, object]:
    return {"serverId": figures.server_id, "timestamp": figures.at_ms}
