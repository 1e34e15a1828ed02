"""How a service declares its tables: each says its class, so that a test can hold the catalogue to it.

- **tenant**: business data. ``organization_id`` leads the primary key; row-level security is forced.
- **system**: outbox, inbox and the like, reached only through the chassis; the organisation is a column.
- **global**: what is asked before the organisation is known (users, credentials); identity only.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Column, MetaData, PrimaryKeyConstraint, Table, Uuid

NAMING = {
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}


class Tenancy(StrEnum):
    """The class of a table."""

    TENANT = "tenant"
    SYSTEM = "system"
    GLOBAL = "global"


def metadata_for(schema: str) -> MetaData:
    """The metadata of one service; its schema has the service's name."""
    return MetaData(schema=schema, naming_convention=NAMING)


def tenant_table(name: str, metadata: MetaData, *items: Any) -> Table:
    """A table of business data: ``(organization_id, id)`` is its primary key."""
    return Table(
        name,
        metadata,
        Column("organization_id", Uuid, nullable=False),
        Column("id", Uuid, nullable=False),
        PrimaryKeyConstraint("organization_id", "id"),
        *items,
        info={"tenancy": Tenancy.TENANT},
    )


def system_table(name: str, metadata: MetaData, *items: Any) -> Table:
    """A table of the chassis within a service's schema."""
    return Table(name, metadata, *items, info={"tenancy": Tenancy.SYSTEM})


def global_table(name: str, metadata: MetaData, *items: Any) -> Table:
    """A table that is asked before the organisation is known; no row-level security, so queries carry it."""
    return Table(name, metadata, *items, info={"tenancy": Tenancy.GLOBAL})


def columns(table: Table, shown: type[BaseModel] | Sequence[str]) -> list[Column[Any]]:
    """The columns an answer shows, in its order: an allow-list, so that a new column stays private."""
    names = list(shown.model_fields) if isinstance(shown, type) else shown
    return [table.c[name] for name in names]
