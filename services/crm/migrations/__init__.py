"""Alembic history of the schema ``crm``; run by ``guardian migrate``."""
