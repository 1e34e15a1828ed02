"""The injected clock and the ids that follow it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from shared import clock
from shared.ids import new_id


def test_the_system_clock_is_aware_and_near_now() -> None:
    moment = clock.now()
    assert moment.tzinfo is UTC
    assert abs(moment - datetime.now(UTC)) < timedelta(seconds=5)


def test_a_fixed_clock_needs_an_aware_time() -> None:
    with pytest.raises(ValueError, match="aware"):
        clock.FixedClock(datetime(2026, 1, 1))  # noqa: DTZ001 (the point)


async def test_an_injected_clock_reaches_tasks_and_ends_with_its_block() -> None:
    fixed = clock.FixedClock(datetime(2025, 3, 1, tzinfo=UTC))

    async def read() -> datetime:
        return clock.now()

    with clock.use_clock(fixed):
        assert await asyncio.create_task(read()) == fixed.moment
        fixed.advance(hours=2)
        assert clock.now() == datetime(2025, 3, 1, 2, tzinfo=UTC)
    assert clock.now().year >= 2026


def test_ids_are_uuid7_of_the_clocks_time() -> None:
    moment = datetime(2025, 3, 1, 12, 30, 0, 123_000, tzinfo=UTC)
    with clock.use_clock(clock.FixedClock(moment)):
        made = [new_id() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert {each.version for each in made} == {7}
    assert {each.int >> 80 for each in made} == {int(moment.timestamp() * 1000)}
