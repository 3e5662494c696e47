"""The figures of the rooms of one instance: what was accepted, what was delivered, who was given history."""

from __future__ import annotations

from collections.abc import Mapping

from chatflow.readings import Reading
from chatflow.rooms.hub import Hub
from chatflow.rooms.ingress import Ingress
from chatflow.rooms.pages import Pages
from chatflow.rooms.resume import Resumer


def room_readings(ingress: Ingress, hub: Hub, resumer: Resumer, pages: Pages) -> list[Reading]:
    """What the rooms count: messages, gaps, resumes, pages; for Prometheus."""
    counter, gauge = True, False

    def members() -> Mapping[str, float]:
        return {str(room): count for room, count in hub.members().items()}

    return [
        Reading("chatflow_messages_accepted", "Validated and stamped", lambda: ingress.accepted, counter),
        Reading("chatflow_messages_acknowledged", "Durable", lambda: ingress.acknowledged, counter),
        Reading("chatflow_messages_pending", "Accepted, not yet answered", lambda: ingress.pending, gauge),
        Reading("chatflow_messages_pending_limit", "Of those pending", lambda: ingress.max_pending_messages, gauge),
        Reading("chatflow_envelopes_published", "Room queue publishes", lambda: ingress.envelopes, counter),
        Reading("chatflow_deliveries", "Broadcasts, times members", lambda: hub.delivered, counter),
        Reading("chatflow_gaps_filled", "Pages read to fill gaps", lambda: hub.gaps_filled, counter),
        Reading("chatflow_duplicates_dropped", "Seen before", lambda: hub.duplicates_dropped, counter),
        Reading("chatflow_rooms_set_back", "Their seqs are given anew", lambda: hub.rooms_set_back, counter),
        Reading("chatflow_room_members", "Members on this instance", members, gauge, "room"),
        Reading("chatflow_resumes", "Connections that asked for history", lambda: resumer.resumes, counter),
        Reading("chatflow_resuming", "Connections that are given history", lambda: resumer.resuming, gauge),
        Reading("chatflow_pages_read", "Pages of history read", lambda: pages.read, counter),
        Reading("chatflow_pages_shared", "Pages given without a read", lambda: pages.shared, counter),
    ]
