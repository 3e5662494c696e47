"""The figures of the connections of one instance."""

from __future__ import annotations

from chatflow.edge.services import EdgeServices
from chatflow.readings import Reading


def edge_readings(services: EdgeServices) -> list[Reading]:
    """Connections, frames and clients that were closed, for Prometheus."""
    counters, connections = services.counters, services.connections
    counter, gauge = True, False
    limited = services.accounts.limited
    return [
        Reading("chatflow_connections", "Open connections", lambda: len(connections), gauge),
        Reading("chatflow_connections_opened", "Handshakes done", lambda: connections.opened, counter),
        Reading("chatflow_connections_refused", "Handshakes refused", lambda: counters.connections_refused, counter),
        Reading("chatflow_buffered_bytes", "Wait for clients", lambda: services.backlog.waiting_bytes, gauge),
        Reading("chatflow_clients_behind", "Have something waiting", lambda: services.backlog.clients, gauge),
        Reading("chatflow_limited", "Refused, delayed or ended by a limit", lambda: limited, counter, "reason"),
        Reading(
            "chatflow_forwarded_unbelieved", "Of no --trusted-proxy", lambda: services.unbelieved.requests, counter
        ),
        Reading("chatflow_slow_clients_closed", "Did not read", lambda: counters.slow_clients_closed, counter),
        Reading("chatflow_silent_clients_dropped", "No pong in time", lambda: counters.silent_clients_dropped, counter),
        Reading("chatflow_reads_paused", "Times a client was not read", lambda: counters.reads_paused, counter),
        Reading("chatflow_messages_received", "Text messages read", lambda: counters.messages_received, counter),
        Reading("chatflow_messages_refused", "Answered with an error", lambda: counters.messages_refused, counter),
        Reading("chatflow_tokens_expired", "Closed with 4401", lambda: counters.tokens_expired, counter),
        Reading("chatflow_draining", "1 while it stops", lambda: connections.ending, gauge),
    ]
