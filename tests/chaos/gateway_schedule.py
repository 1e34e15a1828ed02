"""From one seed the faults of one gateway run, as ``tests.chaos.schedule`` has them for events.

They come one after another, a little apart, so that between two of them most clients get their answers: what is broken
all the time shows nothing of how it is mended.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

GATEWAYS = 2
Kind = Literal["kill", "crash", "pause", "partition", "delay", "cut", "snap"]
KINDS: tuple[Kind, ...] = ("kill", "crash", "pause", "partition", "delay", "cut", "snap")
"""A process is killed and started again; PostgreSQL is stopped at once; a process stands still; a gateway does not reach
crm; reaches it late; answers end where they should not; and are reset while they come."""
SECONDS = 34.0
"""How long the load lasts."""
_FIRST_AT, _SPARE_SECONDS = 2.0, 5.0
_PARTITIONS = ("drop", "hang")
"""Connections are reset and refused; or nothing passes, and they are reset at the end."""
_CUTS = (0, 120, 900, 6_000)
"""Bytes of answers that pass on a connection before it ends: none (it was done, and nobody knows), a part of the head,
a part of a short answer, a part of a long one."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, ``at`` seconds after the load began. ``target`` is a process, or the number of a gateway's way to crm."""

    at: float
    kind: Kind
    target: str
    seconds: float = 0.0
    how: str = ""
    """Of a partition: which; of a cut: after how many bytes; of a delay: milliseconds."""

    def __str__(self) -> str:
        lasting = f" for {self.seconds:g} s" if self.seconds else ""
        return f"+{self.at:5.1f} s  {self.kind:<9} {self.target}{lasting}  {self.how}".rstrip()


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything that is decided before a run begins."""

    seed: int
    seconds: float
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        head = f"seed {self.seed}: {self.seconds:g} s of load, {len(self.faults)} faults"
        return "\n".join([head, *(f"  {fault}" for fault in self.faults)])

    def count(self, *kinds: Kind) -> int:
        """How many faults of these kinds it has."""
        return sum(fault.kind in kinds for fault in self.faults)


def schedule(seed: int) -> Schedule:
    """The schedule of a seed."""
    dice = Random(f"gateway/{seed}")
    return Schedule(seed, SECONDS, tuple(_faults(dice)))


def planned(schedules: Sequence[Schedule], *kinds: Kind) -> int:
    """How many faults of these kinds all of them have."""
    return sum(each.count(*kinds) for each in schedules)


def _faults(dice: Random) -> Iterator[Fault]:
    kinds: list[tuple[Kind, str]] = [
        *(("kill", f"gateway-{number}") for number in range(GATEWAYS)), ("kill", f"gateway-{dice.randrange(GATEWAYS)}"),
        ("kill", "crm"), ("kill", "crm"), ("crash", "postgres"), ("pause", "crm"), ("pause", "crm"), ("pause", "crm"),
        ("partition", _way(dice)), ("partition", _way(dice)), ("delay", _way(dice)), ("cut", _way(dice)),
        ("cut", _way(dice)), ("cut", _way(dice)), ("snap", "0"), ("snap", "1"),
    ]  # fmt: skip
    dice.shuffle(kinds)
    # One comes first, while everything else is well: how long PostgreSQL is away is the machine's to say, and who gets no
    # answers has none broken off.
    kinds.sort(key=lambda each: each != ("snap", "0"))
    # The answer that nobody got is the one that matters most: each seed has it.
    cuts = iter([0, *dice.sample(_CUTS[1:], 2)])
    partitions = iter(dice.sample(_PARTITIONS, 2))
    width = (SECONDS - _SPARE_SECONDS - _FIRST_AT) / len(kinds)
    for number, (kind, target) in enumerate(kinds):
        at = round(_FIRST_AT + width * number + dice.uniform(0, width / 2), 1)
        if kind in {"kill", "crash"}:
            yield Fault(at, kind, target)
        elif kind == "pause":
            yield Fault(at, kind, target, round(dice.uniform(0.3, 3.0), 1))
        elif kind == "partition":
            yield Fault(at, kind, target, round(dice.uniform(1.0, 3.0), 1), next(partitions))
        elif kind == "delay":
            yield Fault(at, kind, target, round(dice.uniform(1.5, 3.0), 1), f"{dice.randrange(150, 900)}")
        elif kind == "cut":
            yield Fault(at, kind, target, round(dice.uniform(0.6, 1.5), 1), f"{next(cuts)}")
        else:
            yield Fault(at, kind, target, round(dice.uniform(0.4, 1.2), 1))


def _way(dice: Random) -> str:
    return f"{dice.randrange(GATEWAYS)}"
