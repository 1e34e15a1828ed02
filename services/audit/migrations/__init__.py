"""Alembic history of the schema ``audit``; run by ``guardian migrate``."""
