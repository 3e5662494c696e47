"""What chat is: validation, ingress, the room hub, resuming, presence.

Knows neither sockets nor AWS nor SQL, and is pure but for the clock that it is given.
"""
