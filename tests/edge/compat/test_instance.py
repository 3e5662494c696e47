"""One instance's figures in the shapes of the original server: every name and kind of value, and which figure it is."""

from __future__ import annotations

from attrs import evolve

from chatflow.edge.compat.instance import InstanceFigures, database_metrics, health, metrics

# Each number differs from all others, so that none is taken for another.
_FIGURES = InstanceFigures(
    server_id="s1",
    at_ms=1_764_000_000_123,
    consuming=True,
    draining=False,
    database_available=True,
    connections=101,
    members={1: 60, 7: 40},
    received=1000,
    refused=12,
    pending=13,
    acknowledged=900,
    acks_sent=880,
    envelopes=300,
    delivered=5000,
    deliveries_failed=2,
    consumed=290,
    redelivered=3,
    dead_lettered=4,
    stored=870,
    not_stored=5,
)
_WHO = {"serverId": "s1", "timestamp": 1_764_000_000_123}


def test_health_has_the_references_fields_in_its_order() -> None:
    assert list(health(_FIGURES).items()) == list(
        {
            **_WHO,
            "sqsHealthy": True,
            "consumerHealthy": True,
            "writeManagerHealthy": True,
            "databaseHealthy": True,
            "databaseConfigured": True,
            "status": "UP",
        }.items()
    )


def test_an_instance_is_down_without_its_consumer_and_while_it_drains_and_up_without_the_database() -> None:
    assert health(evolve(_FIGURES, consuming=False))["status"] == "DOWN"
    draining = health(evolve(_FIGURES, draining=True))
    assert (draining["status"], draining["writeManagerHealthy"]) == ("DOWN", False)
    away = health(evolve(_FIGURES, database_available=False))
    assert (away["status"], away["databaseHealthy"]) == ("UP", False)


def test_metrics_have_the_references_fields_in_their_order() -> None:
    assert metrics(_FIGURES) == {
        **_WHO,
        "handler": {
            "messagesReceived": 1000,
            "messagesPublished": 900,
            "messagesFailed": 12,
            "acksSent": 880,
            "acksFailed": 20,
        },
        "sqs": {"messagesSent": 300},
        "consumer": {
            "messagesProcessed": 290,
            "messagesFailed": 4,
            "messagesDeletedWithoutBroadcast": 3,
            "isRunning": True,
        },
        "rooms": {
            "totalSessions": 100,
            "activeRooms": 2,
            "messagesBroadcast": 5000,
            "broadcastFailures": 2,
            "roomStats": {"1": 60, "7": 40},
        },
        "writeManager": {
            "messagesSent": 5880,
            "messagesQueued": 13,
            "messagesDropped": 0,
            "writeErrors": 2,
            "activeSessions": 101,
            "activeWriterThreads": 1,
        },
    }


def test_database_metrics_have_the_references_fields_in_their_order() -> None:
    assert database_metrics(_FIGURES) == {
        **_WHO,
        "persistence": {"messages_inserted": 870, "insert_errors": 5, "user_activity_updates": 870},
    }
