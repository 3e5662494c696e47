"""PostgreSQL: the batch that numbers and stores messages, history, partitions, migrations.

The only package that imports psycopg2.
"""
