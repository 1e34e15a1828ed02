"""PostgreSQL: one schema and one role per service, one unit of work per request or event."""

from shared.db.database import Database
from shared.db.session import Record, Session
from shared.db.tables import Tenancy, columns, global_table, metadata_for, system_table, tenant_table

__all__ = [
    "Database",
    "Record",
    "Session",
    "Tenancy",
    "columns",
    "global_table",
    "metadata_for",
    "system_table",
    "tenant_table",
]
