"""Which policies an organisation has, remembered until somebody changes them.

A change is notified on ``guardian_limits``. While the listener is known to have heard everything, what was read
stays; otherwise it is believed for ``HEARING_SECONDS``, like credentials.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import structlog

from shared.db.database import AWAY, Database
from shared.db.hearing import HEARING_SECONDS, Hearing
from shared.ids import NIL
from shared.limits.patience import TURNS
from shared.limits.policies import Override, Policy

LIFE_SECONDS = 300.0
_CAPACITY = 20_000
_ANSWER_SECONDS = 2.0
_STEP_SECONDS = 0.02
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 0.5
_HEARTBEAT_SECONDS = 0.4
_log = structlog.get_logger(__name__)


class Definitions:
    """The policies of one organisation. ``until`` is monotonic; forgotten ones have none left.

    ``doubted_at`` is the moment up to which they were certain, where that is known.
    """

    __slots__ = ("asked_at", "doubted_at", "organization_id", "policies", "until")

    def __init__(self, organization_id: UUID, policies: Sequence[Policy], asked_at: float, until: float) -> None:
        self.organization_id = organization_id
        self.policies = policies
        self.asked_at = asked_at
        self.doubted_at = -math.inf
        self.until = until

    def doubt(self, certain_until: float) -> None:
        """They may have changed: whoever has them must ask again."""
        if self.until > -math.inf:
            self.until, self.doubted_at = -math.inf, certain_until


NO_DEFINITIONS = Definitions(NIL, (), -math.inf, -math.inf)
"""For limits that no organisation has set."""


class DefinitionCache:
    """Reads definitions once, however many calls wait for them."""

    def __init__(self, database: Database, hearing: Hearing, *, schema: str, default_plan: str) -> None:
        self._database = database
        self._hearing = hearing
        self._sql = f"SELECT * FROM {schema}.resolve_limits($1, $2)"  # noqa: S608 (the schema is a constant of ours)
        self._default_plan = default_plan
        self._known: dict[UUID, Definitions] = {}
        self._pending: dict[UUID, asyncio.Task[Definitions | None]] = {}
        self._connection: Any = None
        self._one_by_one = asyncio.Lock()
        self._pause = 0.0
        self._again_at = -math.inf

    def believed(self, found: Definitions, now: float) -> bool:
        """Whether definitions may be used without asking again."""
        return now < found.until and (self._hearing.fresh(now) or now - found.asked_at <= HEARING_SECONDS)

    def usable(self, found: Definitions, now: float) -> bool:
        """Whether the database may be asked for units by them, although they could not be read again at once."""
        return self.believed(found, now) or now - max(found.asked_at, found.doubted_at) <= HEARING_SECONDS

    async def get(self, organization_id: UUID, patience: float) -> Definitions | None:
        """The definitions; after ``patience`` seconds without an answer those of before, None where there are none."""
        found = self._known.get(organization_id)
        if found is not None and self.believed(found, self._hearing.clock()):
            return found
        task = self._pending.get(organization_id)
        if task is None:
            if self._pause and (self._pending or self._hearing.clock() < self._again_at):
                return found  # one question after the other: a database that comes back shall not drown in them
            task = self._pending[organization_id] = asyncio.create_task(self._read(organization_id))
        await asyncio.wait({task}, timeout=max(patience, 0.0))
        for _ in range(TURNS):
            if not task.done():
                await asyncio.sleep(0)
        # Nothing at all is known of a new organisation: worth more patience, for as long as the database is heard.
        deadline = self._hearing.clock() + _ANSWER_SECONDS
        while not task.done() and found is None and patience and self._heard_lately() < deadline:
            await asyncio.wait({task}, timeout=_STEP_SECONDS)
        fresh = task.result() if task.done() and not task.cancelled() else None
        return fresh or found

    def _heard_lately(self) -> float:
        now = self._hearing.clock()
        return now if now - self._hearing.at < _HEARTBEAT_SECONDS else math.inf

    def forget(self, organization_id: UUID | None) -> None:
        """Somebody changed the policies of this organisation, or of everybody (None)."""
        now = self._hearing.clock()
        for each in list(self._known.values()):
            if organization_id in (None, each.organization_id):
                # Who has not listened for a while does not know since when they are wrong.
                each.doubt(now if self.believed(each, now) else -math.inf)
                # The old ones are kept for the case that the database cannot be asked now.
        if organization_id is None:
            self._pending.clear()
        else:
            self._pending.pop(organization_id, None)

    def known(self, organization_id: UUID) -> Definitions | None:
        """What is remembered, believed or not."""
        return self._known.get(organization_id)

    async def _read(self, organization_id: UUID) -> Definitions | None:
        this, asked_at = asyncio.current_task(), self._hearing.clock()
        try:
            rows = await self._fetch(organization_id)
        except AWAY as error:
            if not self._pause:
                _log.warning("limits_not_read", reason=str(error) or type(error).__name__)
            self._pause = min(max(self._pause * 2, _SHORTEST_PAUSE), _LONGEST_PAUSE)
            self._again_at = self._hearing.clock() + self._pause
            return None
        finally:
            current = self._pending.get(organization_id) is this
            if current:
                del self._pending[organization_id]
        self._pause = 0.0
        life = min([LIFE_SECONDS, *_expiries(rows)])
        # The shortest window first, as people read them.
        policies = sorted((_policy(organization_id, row) for row in rows), key=lambda each: (each.seconds, each.name))
        # One that a change has overtaken serves those who waited for it, and nobody after them.
        found = Definitions(organization_id, policies, asked_at, asked_at + life if current else -math.inf)
        if current:
            self._keep(found)
        return found

    async def _fetch(self, organization_id: UUID) -> Sequence[Any]:
        """Over a connection of its own: who has one of the pool's must never wait for another one of them."""
        async with self._one_by_one:
            if self._connection is None or self._connection.is_closed():
                async with asyncio.timeout(_ANSWER_SECONDS):
                    self._connection = await self._database.connect()
            try:
                rows: Sequence[Any] = await self._connection.fetch(
                    self._sql, organization_id, self._default_plan, timeout=_ANSWER_SECONDS
                )
            except BaseException:
                self.close()
                raise
            return rows

    def close(self) -> None:
        """End the connection without waiting for anything."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    def _keep(self, found: Definitions) -> None:
        gone = self._known.pop(found.organization_id, None)
        if gone is None and len(self._known) >= _CAPACITY:
            gone = self._known.pop(next(iter(self._known)))
        if gone is not None:
            gone.doubt(-math.inf)  # whoever still holds them would not hear of a change any more
        self._known[found.organization_id] = found


def _expiries(rows: Sequence[Any]) -> list[float]:
    return [
        float(each["expires_in"]) for row in rows for each in row["overrides"] if each.get("expires_in") is not None
    ]


def _policy(organization_id: UUID, row: Any) -> Policy:
    return Policy(
        id=UUID(int=row["id"].int),
        organization_id=organization_id,
        name=row["name"],
        quota=row["quota"],
        unit=row["unit"],
        window=row["window"],
        timezone=row["timezone"],
        per=tuple(row["per"]),
        routes=tuple(row["routes"]),
        classes=tuple(row["classes"]),
        keys=tuple(str(each) for each in row["keys"]),
        users=tuple(str(each) for each in row["users"]),
        weighted=row["weighted"],
        mode=row["mode"],
        on_failure=row["on_failure"],
        shadow=row["shadow"],
        epoch=row["epoch"],
        version=row["version"],
        plan=row["plan"],
        overrides=tuple(Override(each["pattern"], int(each["quota"])) for each in row["overrides"]),
    )
