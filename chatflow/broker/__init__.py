"""Room queue and fan-out: how envelopes reach the one consumer of a room, and stored messages every instance.

The only package that imports boto3.
"""
