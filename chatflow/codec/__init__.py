"""How values travel and lie between processes: envelopes and fan-out messages as queue bodies, dead letters as JSON.

Pure functions. The sizes are those that SQS and SNS take; the embedded queue, which copies nothing, needs none of this.
"""
