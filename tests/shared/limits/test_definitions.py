"""What is remembered of policies, and when it is not believed any more."""

import math
from collections.abc import Callable, Iterator
from typing import Any, cast
from uuid import UUID

import pytest

from shared.db import Database
from shared.db.hearing import Hearing
from shared.ids import new_id
from shared.limits import definitions
from shared.limits.client import Limits
from shared.limits.definitions import DefinitionCache
from shared.limits.policies import Caller
from tests.shared.limits.conftest import LIST, SCHEMA, MakePolicy

CacheOf = Callable[[Any], DefinitionCache]


class Clock:
    """Moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Closed:
    """A database that cannot be asked, and counts who tries."""

    asked = 0

    async def connect(self) -> None:
        self.asked += 1
        raise ConnectionRefusedError("closed")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hearing(clock: Clock) -> Hearing:
    made = Hearing(clock)
    made.heard_until(clock.now)
    return made


@pytest.fixture
def cache_of(hearing: Hearing) -> Iterator[CacheOf]:
    """``cache_of(database)``."""
    made: list[DefinitionCache] = []

    def make(database: Any) -> DefinitionCache:
        made.append(DefinitionCache(cast("Database", database), hearing, schema=SCHEMA, default_plan="none"))
        return made[-1]

    yield make
    for each in made:
        each.close()


async def test_who_holds_what_was_read_again_asks_again(
    cache_of: CacheOf, gateway: Database, hearing: Hearing, clock: Clock, organization_id: UUID
) -> None:
    """Nobody tells the holder of earlier definitions of a change: they are not among those that are known."""
    cache = cache_of(gateway)
    first = await cache.get(organization_id, 10)
    assert first is not None
    hearing.lose()
    clock.now += 1
    second = await cache.get(organization_id, 10)
    assert second is not first
    hearing.heard_until(clock.now)
    assert not cache.believed(first, clock.now)


async def test_what_is_forgotten_for_want_of_room_is_not_believed(
    cache_of: CacheOf, gateway: Database, hearing: Hearing, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(definitions, "_CAPACITY", 2)
    cache = cache_of(gateway)
    found = [await cache.get(new_id(), 10) for _ in range(3)]
    assert [each is not None and cache.believed(each, clock.now) for each in found] == [False, True, True]


async def test_a_database_that_is_away_is_asked_by_one_at_a_time(
    cache_of: CacheOf, hearing: Hearing, clock: Clock
) -> None:
    database = Closed()
    cache = cache_of(database)
    for _ in range(50):
        assert await cache.get(new_id(), 0.01) is None
    assert database.asked == 1
    clock.now += 1.1
    for _ in range(50):
        await cache.get(new_id(), 0.01)
    assert database.asked == 2


async def test_policies_that_may_have_changed_a_second_ago_are_not_asked_by(
    gateway: Database, caller: Caller, policy: MakePolicy
) -> None:
    """The policies cannot be read again, while units could be had: as without the database."""
    clock = Clock()
    limits = Limits(gateway, schema=SCHEMA, default_plan="none", patience=10, clock=clock)
    limits.hearing.heard_until(clock.now)
    await policy(quota=10, on_failure="closed")
    assert (await limits.check(caller, LIST)).allowed
    limits._definitions.close()
    limits._definitions._database = cast("Database", Closed())
    limits._heard(f"organization:{caller.organization_id}")
    clock.now += 0.01
    assert (await limits.check(caller, LIST)).verdicts[0].source == "database"
    limits._heard("*")
    clock.now += 0.8
    limits.hearing.heard_until(clock.now)
    decision = await limits.check(caller, LIST)
    assert (decision.unavailable, decision.verdicts[0].source) == (True, "fallback")
    await limits.stop()


def test_doubt_is_as_old_as_the_first_one() -> None:
    found = definitions.Definitions(new_id(), (), 1.0, 300.0)
    found.doubt(5.0)
    found.doubt(9.0)
    assert (found.until, found.doubted_at) == (-math.inf, 5.0)


async def test_who_was_cut_off_does_not_know_since_when_it_is_wrong(
    cache_of: CacheOf, gateway: Database, hearing: Hearing, clock: Clock, organization_id: UUID
) -> None:
    cache = cache_of(gateway)
    found = await cache.get(organization_id, 10)
    assert found is not None
    hearing.lose()
    clock.now += 5
    cache.forget(None)  # what a listener does that is connected again
    hearing.heard_until(clock.now)
    assert not cache.usable(found, clock.now)
    known = await cache.get(organization_id, 10)
    assert known is not None
    clock.now += 0.5
    hearing.heard_until(clock.now)
    cache.forget(organization_id)
    assert cache.usable(known, clock.now)
