"""Close codes of WebSocket that this server chooses: RFC 6455, 7.4.1, and the registry of IANA.

Autobahn's ``sendClose`` refuses these, ``sendCloseFrame`` sends them. Those of its own are 1002, 1007 and 1009.
"""

from __future__ import annotations

#: The token has expired: come back with a new one. Of the range for private use (RFC 6455, 7.4.2).
TOKEN_EXPIRED = 4401
#: Come back, elsewhere if there is a choice.
SERVICE_RESTART = 1012
#: It broke a rule that it could know.
POLICY_VIOLATION = 1008
#: This instance cannot serve this client now.
TRY_AGAIN_LATER = 1013
#: An operator has ended this connection. Of those for private use (RFC 6455, 7.4.2), as is the next.
DISCONNECTED = 4000
#: An operator keeps this client out: coming back is of no use before that has ended.
BANNED = 4403
