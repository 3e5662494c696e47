"""What chat is: messages, envelopes, ingress and the room hub.

Knows neither sockets nor AWS nor SQL, and is pure but for the clock that it is given.
"""
