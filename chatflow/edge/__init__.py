"""Frames and requests in and out. The only package that imports Autobahn's server side.

A connection's way: ``site`` takes it, ``http`` finds its route, ``handshake`` judges once what the client may have, and
``websocket`` puts together what it needs: ``channel`` is both directions of it (``incoming`` reads its messages,
``outgoing`` keeps what waits to be sent), ``intake`` takes what comes, ``inflight`` counts what is not answered,
``room_session`` leads it into its room and out, ``dialects`` says how it is spoken to. ``services`` is what all of them
share; ``connections`` and ``sweep`` look after all that are open.

Where something new goes: another dialect into ``dialects``, with its frames beside ``v2``; who a client is into
``handshake`` and its value; a limit into ``limits.EdgeLimits`` and the part that it binds; an error of the protocol
into :mod:`chatflow.errors`; an operation of HTTP into ``api``; a route that the original server has into ``compat``.
"""
