"""What the rooms of the house promise each other, and the values they speak of. Knows none of them.

Every interface is one of ``zope.interface``; ``tests/test_contracts.py`` names who implements which, and verifies each.

- ``messages``, ``envelopes``: a message as a client sent it, as it was accepted, as it was stored; several of one room.
- ``members``: who listens in a room and who sends there, which the edge implements.
- ``moderation``: what operators order against users, addresses and rooms.
- ``identity``: who a client is, and what it may do.
- ``room_queue``, ``fanout``: what carries envelopes to one consumer and stored messages to every instance.
- ``writer``, ``deadletters``: what numbers and stores, and where those go that cannot be stored.
- ``history``, ``archive``, ``analytics``: what is read of what was stored.
- ``broker``: room queue, fan-out and dead letters of one instance as a whole, alone or as one of many.
- ``membership``: which instances live, and who is in their rooms.
"""
