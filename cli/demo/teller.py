"""Makes a history happen: operation by operation under its own time, a few dozen in a transaction.

What is already there says how far a load has come, so there is no second place that could disagree. Every
operation has a time of its own and a batch ends with one that makes something: the latest record made
before the end of the history is the last operation of the last batch that was committed. A process that
is killed therefore goes on where it was, and what was made finds its number again by its time.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, get_args
from uuid import UUID

from cli.demo import kinds
from cli.demo.schedule import Schedule
from cli.demo.story import LAST_DAY, LAST_SECOND, Date, Operation, Record, When
from shared.auth import Principal
from shared.clock import FixedClock, use_clock
from shared.db import Database, Session
from shared.errors import NotFound, ValidationFailed

BATCH = 60
Progress = Callable[[int, int, datetime], None]


def batches(operations: Sequence[Operation]) -> Iterator[Sequence[Operation]]:
    """Runs of operations, each ending with one that makes something."""
    first = 0
    for index, operation in enumerate(operations, 1):
        if index - first >= BATCH and operation.action == "create":
            yield operations[first:index]
            first = index
    if first < len(operations):
        yield operations[first:]


@dataclass(slots=True)
class Teller:
    """Tells the history of one organisation. ``members`` are the users who act, its owner first."""

    database: Database
    organization_id: UUID
    members: Sequence[UUID]
    schedule: Schedule
    skipped: int = 0
    """Operations left out because somebody has changed or removed meanwhile what they are about."""

    _ids: dict[Record, dict[int, UUID]] = field(default_factory=lambda: {kind: {} for kind in get_args(Record)})
    _stages: list[UUID] = field(default_factory=list)

    async def is_told(self) -> bool:
        """Whether the history is there to its end."""
        return await self._reached() == self.schedule.at(When(LAST_DAY, LAST_SECOND))

    async def tell(self, operations: Sequence[Operation], progress: Progress = lambda *_: None) -> None:
        """Make happen what has not happened yet."""
        reached, done = await self._reached(), 0
        if reached is not None:
            await self._remember(operations)
            done = sum(self.schedule.at(each.when) <= reached for each in operations)
        for batch in batches(operations[done:]):
            await self._tell_batch(batch)
            done += len(batch)
            progress(done, len(operations), self.schedule.at(batch[-1].when))
            # The platform serves while this runs in its process: whoever is ready goes first.
            await asyncio.sleep(0)

    async def _reached(self) -> datetime | None:
        async with self.database.transaction(self.organization_id) as session:
            return await kinds.newest(session, self._principal(0), self.schedule.end)

    async def _remember(self, operations: Sequence[Operation]) -> None:
        for record, ids in self._ids.items():
            async with self.database.transaction(self.organization_id) as session:
                made = await kinds.made(session, self._principal(0), record, self.schedule.end)
            for each in operations:
                if each.action == "create" and each.record == record:
                    row = made.get(self.schedule.at(each.when))
                    if row is not None:
                        self._keep(each, ids, row)

    def _keep(self, operation: Operation, ids: dict[int, UUID], row: Mapping[str, Any]) -> None:
        ids[operation.ref] = row["id"]
        if operation.record == "pipeline":
            self._stages = [stage["id"] for stage in row["stages"]]

    async def _tell_batch(self, batch: Sequence[Operation]) -> None:
        clock = FixedClock(self.schedule.at(batch[0].when))
        with use_clock(clock):
            async with self.database.transaction(self.organization_id) as session:
                for operation in batch:
                    clock.moment = self.schedule.at(operation.when)
                    await self._do(session, operation)

    async def _do(self, session: Session, operation: Operation) -> None:
        ids = self._ids[operation.record]
        if operation.action == "create" and operation.ref in ids:
            return
        principal = self._principal(operation.actor)
        try:
            values = self._values(operation)
            if operation.action == "create":
                self._keep(operation, ids, await kinds.create(session, principal, operation.record, values))
            else:
                await kinds.alter(session, principal, operation, self._id(operation.record, operation.ref), values)
        except (NotFound, ValidationFailed):
            self.skipped += 1

    def _values(self, operation: Operation) -> dict[str, Any]:
        return dict(self._field(name, value) for name, value in operation.values.items())

    def _id(self, record: Record, number: int) -> UUID:
        if number not in self._ids[record]:
            raise NotFound(f"The {record} {number} of the history was not made.")
        return self._ids[record][number]

    def _field(self, name: str, value: Any) -> tuple[str, Any]:
        """A value of an operation as a field of the service's body."""
        match name:
            case "owner":
                return "owner_id", self._member(value)
            case "stage":
                return "stage_id", self._stages[value]
            case "company" | "contact" | "deal":
                return f"{name}_id", None if value is None else self._id(name, value)
            case "custom_fields":
                return name, {key: self._custom(each) for key, each in value.items()}
        return name, self.schedule.at(value) if isinstance(value, When) else value

    def _custom(self, value: Any) -> Any:
        return self.schedule.date(value).isoformat() if isinstance(value, Date) else value

    def _member(self, number: int) -> UUID:
        return self.members[number % len(self.members)]

    def _principal(self, number: int) -> Principal:
        return Principal(
            organization_id=self.organization_id,
            actor_type="user",
            actor_id=str(self._member(number)),
            auth_method="session",
            request_id="demo-history",
        )
