"""What can happen in a history, and the plan it is collected in. Times are nominal: see ``schedule``."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

DAYS = 261
"""Working days in the year; the last one is the day of the load, whatever weekday it is."""
LAST_DAY = DAYS - 1
LAST_SECOND = 86_399

Record = Literal["custom_field", "pipeline", "company", "contact", "deal", "activity"]
Action = Literal["create", "update", "delete", "restore"]


class When(NamedTuple):
    """A nominal moment: the working day (0 is the first of the year; beyond the last lies the future)."""

    day: int
    second: int = 9 * 3600


@dataclass(frozen=True, slots=True)
class Date:
    """A value that is a date and not a moment."""

    day: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing one member did. ``ref`` numbers the record among those of its kind.

    ``values`` are the fields of the service's own body, except that ``owner``, ``company``, ``contact``,
    ``deal`` and ``stage`` hold numbers, and moments are nominal.
    """

    when: When
    actor: int
    action: Action
    record: Record
    ref: int
    values: Mapping[str, Any]


@dataclass(slots=True)
class Plan:
    """Operations as they are thought of, in any order."""

    operations: list[Operation] = field(default_factory=list)
    counts: dict[Record, int] = field(default_factory=dict)

    def create(self, when: When, actor: int, record: Record, **values: Any) -> int:
        """Something new; its number."""
        ref = self.counts.get(record, 0)
        self.counts[record] = ref + 1
        self._add(when, actor, "create", record, ref, values)
        return ref

    def update(self, when: When, actor: int, record: Record, ref: int, **values: Any) -> None:
        """Fields of something change."""
        self._add(when, actor, "update", record, ref, values)

    def delete(self, when: When, actor: int, record: Record, ref: int) -> None:
        """Something is deleted."""
        self._add(when, actor, "delete", record, ref, {})

    def restore(self, when: When, actor: int, record: Record, ref: int) -> None:
        """Something deleted comes back."""
        self._add(when, actor, "restore", record, ref, {})

    def _add(self, when: When, actor: int, action: Action, record: Record, ref: int, values: dict[str, Any]) -> None:
        self.operations.append(Operation(when, actor, action, record, ref, values))

    def told(self) -> list[Operation]:
        """The operations of the year in order, no two in the same second of the year.

        That each has a time of its own is how an interrupted load finds out what it has done. Whatever
        would lie after the last day is left out.
        """
        # The sort is stable, so that of two things planned for the same second the first planned comes first.
        ordered = sorted((each for each in self.operations if each.when.day <= LAST_DAY), key=lambda each: each.when)
        told: list[Operation] = []
        before = When(-1)
        for each in ordered:
            when = each.when
            if when.day == before.day and when.second <= before.second:
                when = When(before.day, before.second + 1)
            told.append(replace(each, when=when))
            before = when
        return told
