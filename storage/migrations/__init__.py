"""Alembic revisions of the database.

Revisions go forward only; each runs on SQLite and PostgreSQL. To write the next one, change `tables.py`, copy the
newest file in `versions`, and set `HEAD` in `migrate.py`; a test compares the outcome with `tables.py`.
"""
