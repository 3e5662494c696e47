"""The HTTP JSON of the server that ChatFlow is compatible with, and nothing but that.

Pure functions make it of typed values: of :mod:`chatflow.contracts` and :mod:`chatflow.edge.compat.instance`.
No other package knows its names, its numbers as strings, or its formats of time.
"""
