"""PostgreSQL: the batch that numbers and stores messages, history, partitions, migrations.

Beside :mod:`chatflow.postgres` the only package that imports psycopg2.
"""
