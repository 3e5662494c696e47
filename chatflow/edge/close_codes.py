"""Close codes of WebSocket that this server chooses: RFC 6455, 7.4.1, and the registry of IANA.

Autobahn's ``sendClose`` refuses these, ``sendCloseFrame`` sends them. Those of its own are 1002, 1007 and 1009.
"""

from __future__ import annotations

#: The token has expired: come back with a new one. Of the range for private use (RFC 6455, 7.4.2).
TOKEN_EXPIRED = 4401
#: Come back, elsewhere if there is a choice.
SERVICE_RESTART = 1012
#: This instance cannot serve this client now.
TRY_AGAIN_LATER = 1013
