"""ChatFlow: a distributed chat server on Twisted and Autobahn.

A message walks through four packages and back: :mod:`chatflow.edge` (frames in and out), :mod:`chatflow.rooms`
(what chat is), :mod:`chatflow.broker` (room queue and fan-out), :mod:`chatflow.persistence` (PostgreSQL).
:mod:`chatflow.tap` wires them.
"""
