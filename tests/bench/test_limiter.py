"""The parts of the limiter bench that can be wrong unseen: its spread, its percentiles, its counts and its verdict."""

import asyncio
import json
from itertools import pairwise
from random import Random
from time import perf_counter_ns
from typing import Any

import pytest

from tests.bench.limiter_load import Counted, Histogram, drawn_share, draws, hot_keys, violations
from tests.bench.limiter_rounds import Round
from tests.bench.limiter_worker import Contender, Worker


@pytest.mark.parametrize("skew", [0.0, 1.0, 1.4])
def test_keys_are_drawn_as_often_as_the_spread_says(skew: float) -> None:
    drawn = draws(1_000, skew, 200_000, seed=7)
    assert set(drawn) <= set(range(1_000))
    for first in (1, 10, 100):
        share = sum(key < first for key in drawn) / len(drawn)
        assert share == pytest.approx(drawn_share(1_000, skew, first), rel=0.1)
    assert drawn == draws(1_000, skew, 200_000, seed=7)
    assert drawn != draws(1_000, skew, 200_000, seed=8)


def test_hot_are_the_first_hundredth() -> None:
    assert (hot_keys(10_000), hot_keys(250), hot_keys(10)) == (100, 2, 1)
    assert drawn_share(10_000, 1.0, 100) == pytest.approx(0.53, abs=0.005)


def test_percentiles_are_those_of_the_sorted_times() -> None:
    random = Random(7)
    times = [int(random.lognormvariate(8, 2)) for _ in range(50_000)]
    histogram = Histogram()
    for each in times:
        histogram.add(each)
    assert len(histogram) == len(times)
    times.sort()
    for share in (0.01, 0.5, 0.9, 0.99, 0.999, 1.0):
        exact = times[max(round(share * len(times)) - 1, 0)] / 1000
        assert exact <= histogram.microseconds(share) <= exact * 1.01 + 0.032


def test_every_time_has_one_bucket_and_later_ones_have_later_buckets() -> None:
    edges = [*range(0, 1 << 17, 7), *((1 << power) + step for power in range(17, 40) for step in (-1, 0, 1))]
    ends = []
    for nanoseconds in edges:
        histogram = Histogram()
        histogram.add(nanoseconds)
        ends.append(histogram.microseconds(1.0))
        assert nanoseconds < ends[-1] * 1000 <= nanoseconds * 1.01 + 32
    assert all(before <= after for before, after in pairwise(ends))
    assert len(Histogram().fine) + len(Histogram().coarse) < 7_000


def test_histograms_are_merged_and_survive_the_way_to_another_process() -> None:
    one, other = Histogram(), Histogram()
    for nanoseconds in (100, 2_000, 5_000_000):
        one.add(nanoseconds)
        other.add(nanoseconds * 10)
    one.merge(Histogram(*json.loads(json.dumps([other.fine, other.coarse]))))
    assert len(one) == 6
    assert one.microseconds(1.0) == pytest.approx(50_000, rel=0.01)
    assert Histogram().microseconds(0.5) == 0


def _planted(**changed: Any) -> list[str]:
    """Two processes and three keys: 0 used up, 1 not, 2 never called."""
    counts: dict[str, Any] = {
        "quota": 10,
        "admitted": [[6, 3, 0], [4, 2, 0]],
        "refused": [[5, 0, 0], [0, 0, 0]],
        "rows": {0: Counted(10, 10), 1: Counted(7, 5)},
    }
    return violations(**counts | changed)


def test_exact_counts_are_found_exact() -> None:
    assert _planted() == []
    assert _planted(rows={0: Counted(10, 10), 1: Counted(5, 5)}) == []


@pytest.mark.parametrize(
    "changed, found",
    [
        (
            {"admitted": [[7, 3, 0], [4, 2, 0]], "rows": {0: Counted(11, 11), 1: Counted(5, 5)}},
            "11 admitted, more than",
        ),
        ({"admitted": [[5, 3, 0], [4, 2, 0]], "rows": {0: Counted(9, 9), 1: Counted(5, 5)}}, "only 9 of 10 were"),
        ({"refused": [[5, 0, 0], [0, 1, 0]]}, "key 1: 1 refused, though only 5 of 10 were admitted"),
        ({"rows": {0: Counted(10, 9), 1: Counted(7, 5)}}, "the database knows of 9 admitted, and 10 were"),
        ({"rows": {0: Counted(10, 10), 1: Counted(4, 5)}}, "key 1: 4 debited, 5 admitted"),
        ({"rows": {0: Counted(11, 10), 1: Counted(7, 5)}}, "key 0: 11 debited, 10 admitted, and the quota is 10"),
        ({"rows": {0: Counted(10, 10)}}, "key 1: the database knows of 0 admitted, and 5 were"),
        ({"rows": {0: Counted(10, 10), 1: Counted(7, 5), 2: Counted(1, 1)}}, "key 2: the database knows of 1 admitted"),
    ],
)
def test_a_planted_violation_is_found(changed: dict[str, Any], found: str) -> None:
    assert any(found in text for text in _planted(**changed))


class _Planned(Contender):
    """Key 0 waits every tenth time, key 1 is refused after 50 calls, the others are let in at once."""

    allowed = bool
    is_at_once = True

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self.seen = [0] * options["keys"]
        self.waited = 0
        self.stopped = False

    async def start(self) -> None:
        self.ask = self._answer
        self.renew()

    async def stop(self) -> None:
        self.stopped = True

    def renew(self) -> None:
        self.arguments = [(key,) for key in range(self.options["keys"])]

    async def _answer(self, key: int) -> bool:
        self.seen[key] += 1
        if key == 0 and self.seen[key] % 10 == 0:
            self.waited += 1
            await asyncio.sleep(0.0001)
        return key != 1 or self.seen[key] <= 50

    @staticmethod
    def used_up(answer: bool) -> bool:
        return not answer

    @staticmethod
    def asked(answer: bool) -> bool:
        return False


async def test_a_worker_counts_every_call_once() -> None:
    contender = _Planned({"keys": 100, "skew": 1.0, "tasks": 8, "seed": 1})
    await contender.start()
    worker = Worker(contender, contender.options)
    await worker.touch()
    assert contender.seen == [1] * 100
    start = perf_counter_ns() + 20_000_000
    measured = await worker.run(start, start + 100_000_000)
    before = sum(contender.seen)
    await worker.close([], perf_counter_ns() + 1)
    assert sum(contender.seen) == before
    await worker.close(measured["refused_keys"], perf_counter_ns() + 1_000_000)
    counted = await worker.stop()
    assert contender.stopped
    assert measured["refused_keys"] == [1]
    assert counted["admitted"][1] == 50
    called = [sum(each) for each in zip(counted["admitted"], counted["refused"], strict=True)]
    assert called == contender.seen


async def test_hot_keys_that_waited_are_told_from_those_that_did_not() -> None:
    contender = _Planned({"keys": 100, "skew": 1.0, "tasks": 8, "seed": 1})
    await contender.start()
    worker = Worker(contender, contender.options)
    start = perf_counter_ns()
    measured = await worker.run(start, start + 100_000_000)
    together = Round("planned", 0.1)
    together.add(measured)
    # Calls at the edges of the span are in one count and not in the other: at most one a task and edge.
    assert together.hot_waited == pytest.approx(contender.waited, abs=16)
    assert 1 - together.hot_local == pytest.approx(0.1, abs=0.02)
    assert sum(contender.seen) == pytest.approx(together.decisions, abs=16)
    assert together.rate == pytest.approx(together.decisions / 0.1)
    assert any("of them refused" in line for line in together.as_text())
