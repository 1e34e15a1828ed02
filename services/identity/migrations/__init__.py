"""Alembic history of the schema ``identity``; run by ``guardian migrate``."""
