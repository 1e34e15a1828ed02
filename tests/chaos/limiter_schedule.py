"""From one seed the faults of one limiter run, as ``tests.chaos.schedule`` has them for events.

A run has one of four profiles by its seed: ``calm`` (limits change, nothing breaks: what is not exact then is not
excused by anything), ``storm`` (kills, pauses, partitions, a crash of PostgreSQL), ``frozen`` and ``gone``
(PostgreSQL is stopped, or killed, for 30 seconds).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from tests.chaos.limiter_load import LIMITS, PROCESSES

Profile = Literal["storm", "frozen", "gone", "calm"]
PROFILES: tuple[Profile, ...] = ("calm", "storm", "frozen", "gone")
Kind = Literal["kill", "pause", "partition", "change", "crash", "freeze", "gone"]
DISTURBING: tuple[Kind, ...] = ("kill", "pause", "partition", "crash", "freeze", "gone")
PROXIED = 3
"""The first processes reach PostgreSQL through a proxy, so that they can be cut off."""
OUTAGE_SECONDS = 30.0
_OUTAGE_AT = 8.0
_SECONDS: Mapping[Profile, float] = {"calm": 62.0, "storm": 62.0, "frozen": 60.0, "gone": 60.0}
_FIRST_AT, _SPARE_SECONDS = 3.0, 4.0
_CHANGED = ("second", "burst", "strict", "minute")
CUTS = ("drop", "hang", "half")
"""Connections are reset and refused; nothing passes them; nothing passes every other one."""
SKEW_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, ``at`` seconds after the load began. ``target`` is a process or a limit."""

    at: float
    kind: Kind
    target: str = ""
    seconds: float = 0.0
    cut: str = ""
    quota: int = 0

    def __str__(self) -> str:
        lasting = f" for {self.seconds:g} s" if self.seconds else ""
        detail = self.cut or (f"to {self.quota}" if self.kind == "change" else "")
        return f"+{self.at:5.1f} s  {self.kind:<9} {self.target}{lasting}  {detail}".rstrip()


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything that is decided before a run begins."""

    seed: int
    profile: Profile
    seconds: float
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        head = f"seed {self.seed}: {self.profile}, {self.seconds:g} s of load"
        return "\n".join([head, *(f"  {fault}" for fault in self.faults)])

    def count(self, *kinds: Kind) -> int:
        """How many faults of these kinds it has."""
        return sum(fault.kind in kinds for fault in self.faults)


def schedule(seed: int, seconds: float | None = None) -> Schedule:
    """The schedule of a seed; one that is to be shorter leaves out what comes too late."""
    dice = Random(f"limiter/{seed}")
    profile = PROFILES[seed % len(PROFILES)]
    length = seconds or _SECONDS[profile]
    made = sorted(_faults(dice, profile), key=lambda fault: fault.at)
    last = length - _SPARE_SECONDS
    return Schedule(
        seed, profile, length, tuple(fault for fault in made if fault.at + min(fault.seconds, 12.0) <= last)
    )


def skew_of(seed: int, process: int, generation: int) -> float:
    """What the wall clock of a process is off by, in seconds."""
    return round(Random(f"skew/{seed}/{process}/{generation}").uniform(-SKEW_SECONDS, SKEW_SECONDS), 1)


def _faults(dice: Random, profile: Profile) -> Iterator[Fault]:
    length = _SECONDS[profile]
    if profile == "calm":
        yield from _changes(dice, 8, 2.0, length - _SPARE_SECONDS)
    elif profile == "storm":
        yield from _disturbances(dice, _FIRST_AT, length - 14.0, kills=7, pauses=3, cuts=4)
        yield from _changes(dice, 4, 2.0, length - _SPARE_SECONDS)
        yield Fault(round(dice.uniform(20.0, 40.0), 1), "crash")
    else:
        yield Fault(2.0, "change", "minute", quota=360)
        yield Fault(round(dice.uniform(2.5, 5.0), 1), "kill", _process(dice))
        yield Fault(_OUTAGE_AT, "freeze" if profile == "frozen" else "gone", seconds=OUTAGE_SECONDS)
        after = _OUTAGE_AT + OUTAGE_SECONDS + 4.0
        yield from _disturbances(dice, after, length - _SPARE_SECONDS - 4.0, kills=3, pauses=1, cuts=1)
        yield from _changes(dice, 2, after, length - _SPARE_SECONDS)


def _disturbances(dice: Random, first: float, last: float, *, kills: int, pauses: int, cuts: int) -> Iterator[Fault]:
    counts: list[tuple[Kind, int]] = [("kill", kills), ("pause", pauses), ("partition", cuts)]
    kinds = [kind for kind, count in counts for _ in range(count)]
    dice.shuffle(kinds)
    chosen = iter([*dice.sample(CUTS, len(CUTS)), dice.choice(CUTS)])
    long = iter([round(dice.uniform(11.0, 15.0), 1)] if pauses > 1 else [])
    for kind, at in zip(kinds, _spread(dice, len(kinds), first, last), strict=True):
        if kind == "partition":
            seconds = round(dice.uniform(2.0, 6.0), 1)
            yield Fault(at, kind, f"{dice.randrange(PROXIED)}", seconds, cut=next(chosen))
        elif kind == "pause":
            yield Fault(at, kind, _process(dice), next(long, round(dice.uniform(1.0, 5.0), 1)))
        else:
            yield Fault(at, kind, _process(dice))


def _process(dice: Random) -> str:
    return f"{dice.randrange(PROCESSES)}"


def _changes(dice: Random, count: int, first: float, last: float) -> Iterator[Fault]:
    for number, at in enumerate(_spread(dice, count, first, last)):
        limit = LIMITS[_CHANGED[number % len(_CHANGED)]]
        yield Fault(at, "change", limit.name, quota=round(limit.quota * dice.choice((0.4, 0.7, 1.3, 1.8))))


def _spread(dice: Random, count: int, first: float, last: float) -> list[float]:
    share = (last - first) / max(count, 1)
    return [round(first + share * (number + dice.random()), 1) for number in range(count)]


def planned(schedules: Sequence[Schedule], *kinds: Kind) -> int:
    """How many faults of these kinds all of them have."""
    return sum(each.count(*kinds) for each in schedules)
