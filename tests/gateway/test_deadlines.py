"""Time limits without timers: who is overdue is told so, once, unless it may take longer."""

from __future__ import annotations

import asyncio
import time

from gateway.deadlines import LOOK_SECONDS, Deadlines


class Work:
    """Something that may take longer as often as ``longer`` says."""

    def __init__(self, *longer: float) -> None:
        self.longer = list(longer)
        self.told: list[float] = []

    def overdue(self) -> float | None:
        self.told.append(time.perf_counter())
        return self.longer.pop(0) if self.longer else None


async def test_each_is_told_when_its_time_is_up() -> None:
    deadlines, began = Deadlines(), time.perf_counter()
    soon, later, twice, removed = Work(), Work(), Work(0.05), Work()
    for work, seconds in ((soon, 0.05), (later, 0.15), (twice, 0.05), (removed, 0.05)):
        deadlines.add(work, began + seconds)
    deadlines.remove(removed)
    deadlines.remove(Work())
    await asyncio.sleep(0.15 + 4 * LOOK_SECONDS)
    assert [len(each.told) for each in (soon, later, twice, removed)] == [1, 1, 2, 0]
    assert soon.told[0] - began >= 0.05
    assert later.told[0] - began >= 0.15
    assert twice.told[1] - twice.told[0] >= 0.05


async def test_it_looks_again_after_there_was_nothing_to_look_at() -> None:
    deadlines = Deadlines()
    for _ in range(2):
        work = Work()
        deadlines.add(work, time.perf_counter())
        await asyncio.sleep(4 * LOOK_SECONDS)
        assert len(work.told) == 1
