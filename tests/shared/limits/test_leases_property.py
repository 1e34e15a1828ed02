"""Whatever happens in whatever order: no unit is spent that was not granted, none comes back twice, none is lost unseen."""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from shared.limits import flights
from shared.limits.cells import Cell
from shared.limits.policies import Policy
from shared.limits.slots import Slots
from tests.shared.limits.simulation import PROCESSES, Place, World, policy

PROCESS = st.integers(0, PROCESSES - 1)
_SETTINGS = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


class Leases(RuleBasedStateMachine):
    """Two policies of a minute, calls under one of them or both."""

    mode: Any = "exact"
    quotas: tuple[int, ...] = (14, 40)

    def __init__(self) -> None:
        super().__init__()
        flights._random.seed(0)
        self.world = World([policy(number, quota, mode=self.mode) for number, quota in enumerate(self.quotas)])
        self.spent: Counter[Place] = Counter()
        self.borrowed: Counter[Place] = Counter()
        self.too_late = 0
        self.stepped = self.forfeited = False
        """Whether a window may have ended for a process before it did for the database: then what is left is lost."""
        self._patches = [self._watch("take", self.spent), self._watch("borrow", self.borrowed)]

    def _watch(self, name: str, counted: Counter[Place]) -> Any:
        right = getattr(Cell, name)

        def watched(cell: Cell, cost: int) -> None:
            if name == "take" and not self.stepped and cell.window != self.world.oracle.window("minute"):
                self.too_late += 1
            counted[cell.key, cell.window] += cost
            right(cell, cost)

        patched = patch.object(Cell, name, watched)
        patched.start()
        return patched

    @rule(number=PROCESS, under=st.sampled_from([(0,), (1,), (0, 1)]), cost=st.sampled_from([1, 1, 2, 5]))
    def call(self, number: int, under: tuple[int, ...], cost: int) -> None:
        self.world.call(self.world.processes[number], [self.world.policies[each] for each in under], cost)

    @rule(number=PROCESS, count=st.integers(2, 12))
    def calls(self, number: int, count: int) -> None:
        for _ in range(count):
            self.world.call(self.world.processes[number], self.world.policies[:1])

    @rule(number=PROCESS, times=st.integers(2, 8))
    def keep_calling(self, number: int, times: int) -> None:
        for _ in range(times):
            self.world.call(self.world.processes[number], self.world.policies[:1])
            self.world.answer(self.world.processes[number])
            self.advance(0.06)

    @rule(number=PROCESS)
    def answer(self, number: int) -> None:
        self.world.answer(self.world.processes[number])

    @rule(number=PROCESS)
    def carry_out(self, number: int) -> None:
        self.world.carry_out(self.world.processes[number])

    @rule(number=PROCESS)
    def lose(self, number: int) -> None:
        self.world.lose(self.world.processes[number])

    @rule()
    def arrive_late(self) -> None:
        self.world.arrive_late()

    @rule(number=PROCESS, away=st.booleans())
    def unplug(self, number: int, away: bool) -> None:
        self.world.processes[number].unplugged = away

    @rule(seconds=st.sampled_from([0.04, 0.2, 1.1, 7.0, 29.0, 61.0]))
    def advance(self, seconds: float) -> None:
        self.forfeited |= seconds > 1 and any(each.question is not None for each in self.world.processes)
        self.world.advance(seconds)

    @rule(seconds=st.sampled_from([-30.0, -1.0, 1.0, 30.0]))
    def step_the_database_clock(self, seconds: float) -> None:
        self.stepped = self.forfeited = True
        self.world.oracle.clock += seconds

    @rule(number=PROCESS)
    def tick(self, number: int) -> None:
        self.world.tick(self.world.processes[number])

    @rule(number=PROCESS, which=st.integers(0, 1))
    def recall(self, number: int, which: int) -> None:
        key = self.world.key(self.world.policies[which])
        self.world.hear(self.world.processes[number], "recall:" + "/".join(map(str, key)))

    @rule(number=PROCESS)
    def forget(self, number: int) -> None:
        self.world.hear(self.world.processes[number], "*")

    @rule(number=PROCESS)
    def who_waits_runs_out_of_patience(self, number: int) -> None:
        waiting = self.world.processes[number].limits.flights
        for waiter in [each for waiters in waiting._waiting.values() for each in waiters][:1]:
            waiting._give_up(waiter)
        self.world.go_on()

    @rule(number=PROCESS)
    def who_waits_leaves(self, number: int) -> None:
        for task in self.world.processes[number].tasks[:1]:
            task.cancel()
        self.world.go_on()

    @invariant()
    def nothing_is_spent_that_was_not_granted(self) -> None:
        for place, row in self.world.oracle.rows.items():
            assert self.spent[place] + row.returned <= row.granted, place
            assert row.granted - row.returned <= row.highest, place
        for place, spent in self.spent.items():
            assert not spent or place in self.world.oracle.rows, place
        self.nothing_is_borrowed()

    @invariant()
    def nothing_is_spent_after_its_window(self) -> None:
        assert self.too_late == 0

    def nothing_is_borrowed(self) -> None:
        assert not self.borrowed
        for place, row in self.world.oracle.rows.items():
            assert row.admitted <= self.spent[place], place

    @invariant()
    def what_was_granted_is_within_the_quota(self) -> None:
        for (key, _window), row in self.world.oracle.rows.items():
            quota = next(each.quota for each in self.world.policies if self.world.key(each) == key)
            assert row.highest == quota
            assert row.granted - row.returned <= quota

    def teardown(self) -> None:
        try:
            for process in self.world.processes:
                process.unplugged = False
            self.world.settle()
            self.world.stop()
            self.everything_is_accounted_for()
        finally:
            for each in self._patches:
                each.stop()
            self.world.close()

    def everything_is_accounted_for(self) -> None:
        lost = self.world.lost()
        for place, row in self.world.oracle.rows.items():
            if place[1] == self.world.oracle.window("minute") and not self.forfeited:
                assert row.used == row.admitted + lost[place], (place, row, lost[place])


class FastLeases(Leases):
    """The same on credit: what is beyond the quota is a tenth of it at most, or one for each process."""

    mode = "fast"
    quotas = (3, 30)

    def nothing_is_borrowed(self) -> None:
        for place in {*self.spent, *self.borrowed}:
            quota = next(each.quota for each in self.world.policies if self.world.key(each) == place[0])
            credit = PROCESSES * max(quota // (10 * PROCESSES), 1)
            assert self.spent[place] + self.borrowed[place] <= quota + credit, place

    def everything_is_accounted_for(self) -> None:
        for place, row in self.world.oracle.rows.items():
            assert row.used >= row.admitted, place  # what may not have arrived of credit is said again

    @precondition(lambda self: False)
    @rule()
    def step_the_database_clock(self) -> None:
        """Credit belongs to the window the process believes in; a clock that jumps may give it another one."""


class AtOnce(RuleBasedStateMachine):
    """Calls at the same time: as many as there are slots, as long as every holder can speak."""

    def __init__(self) -> None:
        super().__init__()
        flights._random.seed(0)
        self.policy: Policy = policy(0, 7, window=None, unit="concurrent-requests")
        self.world = World([self.policy])

    @rule(number=PROCESS, count=st.integers(1, 6))
    def begin(self, number: int, count: int) -> None:
        for _ in range(count):
            self.world.call(self.world.processes[number], [self.policy])

    @rule(number=PROCESS, count=st.integers(1, 4))
    def end(self, number: int, count: int) -> None:
        running = self.world.processes[number].running
        for _ in range(min(count, len(running))):
            running.pop().release()

    @rule(number=PROCESS)
    def answer(self, number: int) -> None:
        self.world.answer(self.world.processes[number])

    @rule(number=PROCESS)
    def carry_out(self, number: int) -> None:
        self.world.carry_out(self.world.processes[number])

    @rule(number=PROCESS)
    def lose(self, number: int) -> None:
        self.world.lose(self.world.processes[number])

    @rule(number=PROCESS, ended=st.integers(0, 6), begun=st.integers(0, 6))
    def end_and_begin_while_it_is_called_back(self, number: int, ended: int, begun: int) -> None:
        self.answer(number)
        self.end(number, ended)
        self.recall(number)
        self.begin(number, begun)
        self.answer(number)

    @rule(number=PROCESS)
    def recall(self, number: int) -> None:
        key = self.world.key(self.policy)
        self.world.hear(self.world.processes[number], "recall:" + "/".join(map(str, key)))

    @rule(number=PROCESS)
    def forget(self, number: int) -> None:
        self.world.hear(self.world.processes[number], "*")

    @rule(seconds=st.sampled_from([0.06, 0.5, 3.0]), times=st.integers(1, 5))
    def time_passes_and_everybody_speaks(self, seconds: float, times: int) -> None:
        for _ in range(times):
            self.world.settle()
            self.world.advance(seconds)
            for process in self.world.processes:
                self.world.tick(process)
            self.world.settle()
            self.nobody_runs_beyond_the_quota()

    @invariant()
    def nobody_runs_beyond_the_quota(self) -> None:
        for process in self.world.processes:
            process.running += [each for each in self.world.finished(process) if each.allowed]
            for cell in process.limits._cells.values():
                assert isinstance(cell, Slots)
                assert cell.running == len(process.running)
        assert sum(len(process.running) for process in self.world.processes) <= self.policy.quota

    def teardown(self) -> None:
        self.world.close()


@pytest.mark.parametrize("machine", [Leases, FastLeases, AtOnce])
def test_in_any_order(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(machine, settings=_SETTINGS)
