"""Several lease clients against an oracle of the database's functions, in one event loop that goes on when it is told to.

The clients are the real ones: only their connection is replaced, the clock is moved by hand, and a question to the
database waits until the test carries it out, answers it, or loses it. The oracle is written from what the functions
promise (docs/adr/0018), not from their SQL.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

from shared.ids import NIL
from shared.limits.cells import Key
from shared.limits.client import Limits
from shared.limits.counters import Counters, Unreachable
from shared.limits.decision import Decision
from shared.limits.policies import SECONDS, Policy

Place = tuple[Key, int]
"""A counter: its key, and the start of its window."""
PROCESSES = 3
PATIENT = 1e6
_TURNS = 12
_MOMENT = 1e-5


class Record(dict[str, Any]):
    """A row as asyncpg has it: read by name, or one after the other."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values())


@dataclass
class Row:
    """A counter as the oracle keeps it: everything that ever happened to it."""

    granted: int = 0
    returned: int = 0
    credit: int = 0
    admitted: int = 0
    quota: int = 0
    highest: int = 0

    @property
    def used(self) -> int:
        """What is debited."""
        return self.granted + self.credit - self.returned


@dataclass
class Question:
    """A call to the database under way; ``answer`` is None until it was carried out."""

    process: "Process"
    arguments: tuple[Any, ...]
    future: "asyncio.Future[None]"
    is_hold: bool
    answer: list[Record] | None = None

    def said(self) -> Iterator[tuple[Place, int]]:
        """The units that it settles, of which counter."""
        if not self.is_hold:
            _replica, *columns = self.arguments
            for o, p, e, s, *_asked, window, spent, unused in zip(*columns, strict=True):
                yield ((o, p, e, s), window), spent + unused

    def granted(self) -> Iterator[tuple[Place, int]]:
        """The units that were granted, of which counter."""
        if not self.is_hold:
            organizations, policies, epochs, subjects = self.arguments[1:5]
            for row in self.answer or ():
                at = row["item"] - 1
                key = (organizations[at], policies[at], epochs[at], subjects[at])
                yield (key, row["window_start"]), row["granted"]


@dataclass
class Oracle:
    """``check_rate_limit`` and ``hold_slots``, and the database's clock."""

    clock: float = 1_000_000.0
    rows: dict[Place, Row] = field(default_factory=dict)
    slots: dict[Key, dict[UUID, tuple[int, float, int]]] = field(default_factory=dict)
    replicas: int = PROCESSES

    def carry_out(self, question: Question) -> None:
        """Do what was asked, whether somebody waits for the answer or not."""
        answer = (self._hold if question.is_hold else self._check)(*question.arguments)
        question.answer = answer

    def _check(self, _replica: UUID, *columns: Sequence[Any]) -> list[Record]:
        items = [((o, p, e, s), *rest) for o, p, e, s, *rest in zip(*columns, strict=True)]
        for key, period, _zone, quota, _need, want, settled, spent, unused in items:
            window = self.window(period)
            place = (key, window if settled == -1 else settled)
            if want:
                row = self.rows.setdefault((key, window), Row(quota=quota))
                row.quota, row.highest = quota, max(quota, row.highest)
            if settled and place in self.rows:
                row = self.rows[place]
                row.admitted += spent
                row.returned += max(unused, 0)
                row.credit += max(-unused, 0)
        found = []
        for number, (key, period, _zone, quota, need, want, *_rest) in enumerate(items, 1):
            if want:
                found.append(self._grant(number, key, period, quota, need, want))
        return found

    def _grant(self, item: int, key: Key, period: str, quota: int, need: int, want: int) -> Record:
        window = self.window(period)
        row = self.rows[key, window]
        free = max(quota - row.used, 0)
        granted = min(free, need + min(want - need, max(free - need, 0) // (2 * self.replicas)))
        row.granted += granted
        return Record(
            item=item, granted=granted, remaining=free - granted, window_start=window,
            resets_in=window + SECONDS[period] - self.clock, lease_seconds=SECONDS[period] / 4,
            outstanding=granted < need and row.used > row.admitted, replicas=self.replicas,
        )  # fmt: skip

    def window(self, period: str) -> int:
        """The start of the present window."""
        return int(self.clock // SECONDS[period] * SECONDS[period])

    def _hold(self, replica: UUID, *columns: Any) -> list[Record]:
        *columns, seconds, statement = columns  # type: ignore[assignment]
        found = []
        for item, (o, p, e, s, quota, need, want) in enumerate(zip(*columns, strict=True), 1):
            holders = self.slots.setdefault((o, p, e, s), {})
            others = sum(n for who, (n, until, _) in holders.items() if who != replica and until > self.clock)
            held = min(want, max(quota - others, 0))
            if want > need:
                held = min(held, max(need, (quota - others) // (2 * self.replicas)))
            if statement > holders.get(replica, (0, 0, -1))[2]:
                holders[replica] = (held, self.clock + seconds, statement)
            left = max(quota - others - held, 0)
            found.append(Record(item=item, held=held, remaining=left, replicas=self.replicas))
        return found


class Wire(Counters):
    """A connection whose questions wait."""

    def __init__(self, process: "Process") -> None:
        super().__init__(cast("Any", None), "ratelimit", process.limits.replica)
        self._process = process

    async def connect(self) -> None:
        if self._process.unplugged:
            raise Unreachable("unplugged")

    async def _call(self, sql: str, *arguments: Any) -> Any:
        waiting = asyncio.get_running_loop().create_future()
        question = self._process.question = Question(self._process, arguments, waiting, sql == self._hold)
        try:
            await waiting
        finally:
            self._process.question = None
        return question.answer


class Process:
    """One client, with a clock that began at another moment than everybody's."""

    def __init__(self, world: "World", number: int) -> None:
        self.ahead = 1_000.0 * number
        self.question: Question | None = None
        self.unplugged = False
        self.limits = Limits(
            cast("Any", None), schema="ratelimit", default_plan="none", patience=PATIENT,
            clock=lambda: world.clock + self.ahead,
        )  # fmt: skip
        self.limits._running = False  # nothing ticks by itself
        self.limits.flights.counters = Wire(self)
        self.limits.flights.replicas = PROCESSES  # as one that has been answered before
        self.tasks: list[asyncio.Task[Decision]] = []
        self.running: list[Decision] = []


class World:
    """The processes, the oracle, and the loop."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = 0.0
        self.oracle = Oracle()
        self.policies = list(policies)
        self.processes: list[Process] = []
        self.loop.run_until_complete(self._begin())
        self.strays: list[Question] = []
        self.unheard: list[Question] = []

    async def _begin(self) -> None:
        self.processes = [Process(self, number) for number in range(PROCESSES)]

    def key(self, policy: Policy, subject: str = "organization") -> Key:
        """The key of a counter."""
        return (policy.organization_id, policy.id, policy.epoch, subject)

    def go_on(self) -> None:
        """Let everything happen that waits for nothing but its turn, which takes a moment."""
        self.clock += _MOMENT
        self.oracle.clock += _MOMENT
        for process in self.processes:
            process.limits.hearing.heard_until(self.clock + process.ahead)
        for _ in range(_TURNS):
            self.loop.run_until_complete(asyncio.sleep(0))

    def begin(self, process: Process, coroutine: Coroutine[Any, Any, Decision]) -> None:
        """Begin a call; it may have to wait."""
        process.tasks.append(self.loop.create_task(coroutine))
        self.go_on()

    def call(self, process: Process, policies: Sequence[Policy], cost: int = 1) -> None:
        """A call that is under these policies."""
        self.begin(process, process.limits.take([(policy, "organization") for policy in policies], cost))

    def carry_out(self, process: Process) -> None:
        """The database does what the process asked."""
        question = process.question
        if question is not None and question.answer is None:
            self.oracle.carry_out(question)

    def answer(self, process: Process) -> None:
        """The process hears of it."""
        self.carry_out(process)
        if process.question is not None:
            process.question.future.set_result(None)
            self.go_on()

    def lose(self, process: Process) -> None:
        """The process hears nothing, and gives up. What was not carried out may be so later, or never."""
        question = process.question
        if question is None:
            return
        (self.strays if question.answer is None else self.unheard).append(question)
        question.future.set_exception(Unreachable("lost"))
        self.go_on()

    def arrive_late(self) -> None:
        """The database does the oldest of what was given up."""
        if self.strays:
            self.oracle.carry_out(self.strays[0])
            self.unheard.append(self.strays.pop(0))

    def lost(self) -> Counter[Place]:
        """The units that were granted and nobody heard of, or given back in vain."""
        found = Counter[Place]()
        for each in self.unheard:
            for place, units in each.granted():
                found[place] += units
        for each in self.strays:
            for place, units in each.said():
                found[place] += units
        return found

    def advance(self, seconds: float) -> None:
        """Time passes, for everybody alike."""
        self.clock += seconds
        self.oracle.clock += seconds
        self.go_on()

    def tick(self, process: Process) -> None:
        """What a process does ten times a second."""
        self.run(process.limits._tick)

    def hear(self, process: Process, payload: str) -> None:
        """A notification arrives."""
        self.run(lambda: process.limits._heard(payload))

    def run(self, happens: Callable[[], None]) -> None:
        """Something happens in the loop."""

        async def happening() -> None:
            happens()

        self.loop.run_until_complete(happening())
        self.go_on()

    def settle(self) -> None:
        """Everything is answered that is asked, as long as somebody asks."""
        for _ in range(200):
            asking = [process for process in self.processes if process.question is not None]
            for process in asking:
                self.answer(process)
            if not asking:
                return
        raise AssertionError("they never stop asking")

    def finished(self, process: Process) -> list[Decision]:
        """The decisions that were made since it was last asked."""
        done = [task for task in process.tasks if task.done()]
        process.tasks = [task for task in process.tasks if not task.done()]
        return [task.result() for task in done if not task.cancelled()]

    def stop(self) -> None:
        """Every process gives back what it holds, one after the other."""
        for process in self.processes:
            process.unplugged = False
            stopping = self.loop.create_task(process.limits.stop())
            for _ in range(200):
                self.go_on()
                if process.question is not None:
                    self.answer(process)
                if stopping.done():
                    break
            stopping.result()

    def close(self) -> None:
        """End the loop."""
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.go_on()
        self.loop.close()


def policy(number: int, quota: int, **fields: Any) -> Policy:
    """A policy of nobody in particular."""
    values = {"window": "minute", "on_failure": "closed"} | fields
    return Policy(UUID(int=number + 1), NIL, f"p{number}", quota, **values)
