"""The PostgreSQL that the daemon brings along: finding its programs, starting, supervising and stopping the server.

Blocking, in threads or before the reactor runs. What is stored in it is :mod:`chatflow.persistence`'s.
"""
