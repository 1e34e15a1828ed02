"""What a limiter run leaves behind for the checker: calls, faults, counters; and the windows they make together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from tests.chaos.limiter_load import LIMITS, Call, Limit

What = Literal["overshoot", "inexact", "unaccounted", "waste", "slow-change", "concurrency", "failure-mode", "wait"]
KINDS: tuple[What, ...] = (
    "overshoot", "inexact", "unaccounted", "waste", "slow-change", "concurrency", "failure-mode", "wait",
)  # fmt: skip
"""More admitted than the quota; less, where nothing was wrong; the database counts something else than the processes;
more units lost with a process than its leases may hold; a new quota is not obeyed after a second; more calls at the
same time; not what ``on_failure`` says; a call that waited for a database that was away."""
BEFORE_SECONDS, AFTER_SECONDS = 0.5, 2.0
"""How long before it begins and after it ends a disturbance may matter."""
_BOUNDARY_SECONDS = 0.005
"""Windows end by the database's clock; what this process knows of it may be off by so much."""


@dataclass
class Disturbance:
    """What was done to a process (None: to the database, and so to all), from when until when."""

    kind: str
    process: int | None
    began: float
    ended: float = math.inf

    def touches(self, first: float, last: float) -> bool:
        """Whether it mattered between two moments."""
        return self.began - BEFORE_SECONDS <= last and first <= self.ended + AFTER_SECONDS


class Change(NamedTuple):
    """Another quota, committed at some moment between two."""

    limit: str
    quota: int
    before: float
    after: float


class Life(NamedTuple):
    """When a process ended, and how."""

    process: int
    generation: int
    ended: float
    killed: bool


class Row(NamedTuple):
    """A counter of the database. ``starts`` is in unix seconds."""

    limit: str
    key: int
    starts: float
    used: int
    admitted: int
    highest_quota: int


class Violation(NamedTuple):
    """``size`` is in units, or in milliseconds for a wait."""

    kind: What
    text: str
    size: float = 1

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass
class Window:
    """What was asked of one limit, key and window. ``starts`` and ``ends`` are monotonic."""

    limit: Limit
    key: int
    starts: float
    ends: float
    admitted: int = 0
    refused: int = 0
    fell_back: int = 0
    calls: list[Call] = field(default_factory=list)

    @property
    def first(self) -> float:
        """The first moment that can have mattered."""
        return max(self.starts, min((call.at - call.waited for call in self.calls), default=self.starts))

    @property
    def last(self) -> float:
        """The last such moment."""
        return min(self.ends, max((call.at for call in self.calls), default=self.ends))

    def __str__(self) -> str:
        return f"{self.limit.name}/{self.key} from +{self.starts:.3f} s"


@dataclass
class History:
    """A run. ``clock`` is what has to be added to monotonic time for the database's, ``began`` and ``ended`` the load."""

    calls: Sequence[Call]
    clock: float
    began: float
    ended: float
    disturbances: Sequence[Disturbance] = ()
    changes: Sequence[Change] = ()
    lives: Sequence[Life] = ()
    rows: Sequence[Row] = ()
    limits: Mapping[str, Limit] = field(default_factory=lambda: LIMITS)


@dataclass
class Findings:
    """What came out of it, and how much there was to judge."""

    violations: list[Violation] = field(default_factory=list)
    windows: int = 0
    overloaded: int = 0
    excused: int = 0
    """Windows that admitted too little and for which only the machine, or a late answer, is to blame."""
    waste_judged: int = 0
    waits: int = 0
    longest_wait: float = 0.0
    longest_wait_raw: float = 0.0
    recoveries: list[float] = field(default_factory=list)

    def units(self, *kinds: What) -> float:
        """The sizes of these kinds together."""
        return sum(each.size for each in self.violations if each.kind in kinds)

    def count(self, *kinds: What) -> int:
        """How many violations of these kinds there are."""
        return sum(each.kind in kinds for each in self.violations)


def windows_of(history: History) -> dict[tuple[str, int, float], Window]:
    """The calls of windows, by limit, key and the window's start in unix seconds."""
    found: dict[tuple[str, int, float], Window] = {}
    for call in history.calls:
        limit = history.limits[call.limit]
        if limit.seconds == 0 or call.kind in {"lag", "ended"}:
            continue
        moment = call.at if call.kind != "admitted" else max(call.window_end - _BOUNDARY_SECONDS, call.at - call.waited)
        start = (moment + history.clock) // limit.seconds * limit.seconds
        key = (call.limit, call.key, start)
        if key not in found:
            monotonic = start - history.clock
            found[key] = Window(limit, call.key, monotonic, monotonic + limit.seconds)
        window = found[key]
        window.calls.append(call)
        window.admitted += call.cost if call.kind == "admitted" else 0
        window.refused += call.cost if call.kind == "refused" else 0
        window.fell_back += call.source == "fallback"
    return found
