"""ChatFlow and what it works with, on one machine: emulator of SQS and SNS, PostgreSQL, HAProxy, daemons, and proxies
that make calls fail.

Behind ``scripts/cluster``, the tests and the benchmarks; not part of the wheel. Everything listens on loopback, and
ends with the process that started it. Needs the extra ``chatflow[testbed]``.
"""
