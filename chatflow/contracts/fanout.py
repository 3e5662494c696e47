"""How the hubs of the other instances hear of what was stored."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from zope.interface import Interface

from chatflow.contracts.messages import StoredMessage


class IFanout(Interface):
    """How committed messages reach the hubs of the other instances."""

    def publish(messages: Sequence[StoredMessage]) -> Deferred[None]:
        """Tell the others of one flush's messages. Losing some is allowed: hubs find gaps and heal them.

        Fires when handed over; does not fail.
        """
