"""Alembic history of the schema ``ratelimit``; run by ``guardian migrate``."""
