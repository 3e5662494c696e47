"""A client for programs: every message once, in order, over any number of connections. See ``docs/client.rst``."""

from chatflow.client.client import ChatClient, SendFailed, Sent
from chatflow.client.session import Message, Presence, Reset

__all__ = ["ChatClient", "Message", "Presence", "Reset", "SendFailed", "Sent"]
