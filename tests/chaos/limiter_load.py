"""What a limiter run asks for: organisations with their limits, how often each process calls, and what it writes down.

Every organisation is about one thing. Each process writes what it was told into a file that is mapped into its
memory, one record for each limit of a call, in the very moment ``check()`` returns: a SIGKILL takes none of it away.
What it does take away is the call that was decided and not written yet, one for each task at the most. That makes a
count smaller by so much, and could hide as much of an overshoot.
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from shared.limits.decision import Source
from shared.limits.policies import Mode, OnFailure, Operation, Window

PROCESSES = 8
PLAN = "chaos"
"""A plan without policies of its own."""
OPERATION = Operation("GET", "/v1/contacts")
KEY_SECONDS = 8.0
"""Organisations counted by key take another key every so often, so that a new window of an hour begins."""
Kind = Literal["admitted", "refused", "passed", "unavailable", "ended", "lag"]
"""``refused``: this limit said no. ``passed``: it would have let pass what another one refused. ``ended``: the call at
the same time is over. ``lag``: no call; the process was not heard of for so long (``waited``)."""
KINDS: tuple[Kind, ...] = ("admitted", "refused", "passed", "unavailable", "ended", "lag")
SOURCES: tuple[Source, ...] = ("lease", "database", "cached-denial", "fallback")


@dataclass(frozen=True)
class Limit:
    """One policy; ``window`` None counts calls at the same time."""

    name: str
    quota: int
    window: Window | None
    mode: Mode = "exact"
    on_failure: OnFailure = "closed"
    by_key: bool = False

    @property
    def seconds(self) -> int:
        """How long its window is."""
        return {"second": 1, "minute": 60, "hour": 3600}[self.window] if self.window else 0

    @property
    def exact(self) -> bool:
        """Whether it is never passed, whatever happens."""
        return self.mode != "fast" and self.on_failure == "closed" and self.window is not None

    @property
    def most(self) -> float:
        """What may be admitted for each unit of the quota."""
        return 1.1 if self.mode == "fast" else 1.0


@dataclass(frozen=True)
class Tenant:
    """One organisation: its limits, and how many calls a second each process makes. ``costs`` empty: one unit each."""

    name: str
    rate: float
    limits: tuple[Limit, ...]
    costs: tuple[int, ...] = ()
    tasks: int = 3


TENANTS = (
    Tenant("second", 14, (Limit("second", 40, "second"),)),
    Tenant("spare", 6, (Limit("spare", 200, "second"),)),  # never used up, so that leases are left at the end
    Tenant("minute", 6, (Limit("minute", 300, "minute"),)),
    Tenant("hour", 6, (Limit("hour", 400, "hour", by_key=True),), costs=(1, 2, 3, 5, 7)),
    Tenant("double", 9, (Limit("burst", 30, "second"), Limit("wide", 700, "minute"))),
    Tenant("strict", 5, (Limit("strict", 20, "second", mode="strict"),)),
    Tenant("concurrent", 0, (Limit("concurrent", 12, None),), tasks=4),
    Tenant("fast", 10, (Limit("fast", 600, "minute", mode="fast"),)),
    Tenant("share", 5, (Limit("share", 1_200, "minute", on_failure="share"),)),
    Tenant("open", 5, (Limit("open", 1_000_000_000, "minute", on_failure="open"),)),
)
LIMITS: Mapping[str, Limit] = {limit.name: limit for tenant in TENANTS for limit in tenant.limits}
_NAMES = tuple(LIMITS)


class Call(NamedTuple):
    """One limit's word on one call. Times are monotonic seconds, which all processes of a machine share.

    ``window_end`` is when the window ends whose units were spent, as the client knows it; never earlier than the
    moment of spending. ``lag`` is how long the process was late meanwhile for reasons of its own.
    """

    process: int
    generation: int
    at: float
    window_end: float
    limit: str
    key: int
    cost: int
    kind: Kind
    source: Source
    waited: float = 0.0
    lag: float = 0.0


class Journal:
    """The file of one process; ``add`` is over when it is safe."""

    _RECORD = struct.Struct("<ddddHHIBB")
    _HEAD = struct.Struct("<QQ")
    _BYTES = 8 << 20

    def __init__(self, path: Path) -> None:
        with path.open("w+b") as file:
            file.truncate(self._BYTES)
            self._map = mmap.mmap(file.fileno(), self._BYTES)
        self._count = 0

    def add(self, limit: str, kind: Kind, source: Source, at: float, window_end: float, **more: float) -> None:
        """Write one record: ``key``, ``cost``, ``waited``, ``lag`` where they matter."""
        values = (
            at, window_end, more.get("waited", 0.0), more.get("lag", 0.0), _NAMES.index(limit), int(more.get("key", 0)),
            int(more.get("cost", 0)), KINDS.index(kind), SOURCES.index(source),
        )  # fmt: skip
        self._RECORD.pack_into(self._map, self._HEAD.size + self._count * self._RECORD.size, *values)
        self._count += 1
        self._head(0)

    def say(self, state: Literal["ready", "stopped"]) -> None:
        """Tell whoever started this process how far it is."""
        self._head({"ready": 1, "stopped": 2}[state])

    def _head(self, state: int) -> None:
        self._HEAD.pack_into(self._map, 0, self._count, max(state, self._HEAD.unpack_from(self._map)[1]))

    @classmethod
    def state(cls, path: Path) -> int:
        """0 while it begins, 1 when it asks, 2 when it has given everything back."""
        if not path.exists():
            return 0
        with path.open("rb") as file:
            head = file.read(cls._HEAD.size)
        return int(cls._HEAD.unpack(head)[1]) if len(head) == cls._HEAD.size else 0

    @classmethod
    def read(cls, path: Path, process: int, generation: int) -> Iterator[Call]:
        """What a process wrote before it ended, however it ended."""
        data = path.read_bytes()
        (count, _) = cls._HEAD.unpack_from(data)
        for values in cls._RECORD.iter_unpack(data[cls._HEAD.size : cls._HEAD.size + count * cls._RECORD.size]):
            at, window_end, waited, lag, limit, key, cost, kind, source = values
            yield Call(
                process, generation, at, window_end, _NAMES[limit], key, cost, KINDS[kind], SOURCES[source], waited, lag
            )
