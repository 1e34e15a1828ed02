"""What the shared use cases need to know about one kind of record."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Table

from services.crm.records.repository import RecordTable
from shared.events import Event


@dataclass(frozen=True, eq=False)
class Resource:
    """One kind of record: its table, the events of its life, and what it refers to.

    ``created`` and ``restored`` carry the whole record in a field of the record's name, ``updated`` carries
    ``changes``. ``references`` maps a field to the table its id must be found in, alive. ``rule`` raises a
    ``Problem`` for a record that must not be: it sees every new record, and every changed one as it would be.
    """

    records: RecordTable
    created: Callable[..., Event]
    updated: Callable[..., Event]
    deleted: Callable[..., Event]
    restored: Callable[..., Event]
    references: Mapping[str, Table] = field(default_factory=dict)
    rule: Callable[[Mapping[str, Any]], None] = lambda _record: None

    @property
    def name(self) -> str:
        """The record's name: ``contact``, ``deal``."""
        return self.records.name
