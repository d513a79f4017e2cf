"""Exact statistics: batches, the commit queue, SQLite and PostgreSQL."""
