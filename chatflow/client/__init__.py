"""A client for programs: every message once, in order, over any number of connections. See ``docs/client.rst``."""

from chatflow.client.client import ChatClient, State
from chatflow.client.outbox import SendFailed
from chatflow.client.pending import PlaceUnknown
from chatflow.client.protocol import Rejected
from chatflow.client.sending import Sent
from chatflow.client.session import Message, Presence, Reset
from chatflow.errors import Refused

__all__ = [
    "ChatClient",
    "Message",
    "PlaceUnknown",
    "Presence",
    "Refused",
    "Rejected",
    "Reset",
    "SendFailed",
    "Sent",
    "State",
]
