"""How values travel and lie between processes: envelopes as queue bodies, dead letters as JSON, and their packing.

Pure functions. The sizes are those that SQS and SNS take; the embedded queue, which copies nothing, needs none of this.
"""
