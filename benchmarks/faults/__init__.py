"""A laboratory of faults: what may happen to a cluster, made to happen under load that proves what came of it.

:mod:`.laboratory` is the cluster and what can be done to its parts. :mod:`.fault` says what a fault is; the modules
beside it hold them by subject, and :mod:`.catalogue` has them all. :mod:`.trial` runs some of them under load and
judges; :mod:`.walk` draws a sequence of them from a seed; :mod:`.command` is ``python -m benchmarks faults``.
"""
