"""From one seed the faults of one run: what, when, for how long. The same seed and bus give the same list.

A run has one of three profiles by its seed, so that any three seeds in a row show all: ``pause`` (members sleep
40 seconds while others take over), ``outage`` (Kafka is away for 30), ``network`` (slow, cut and half-open
connections to the database and the broker, and consumers set back to the beginning). In each every kill point
fires and every process is killed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from shared.buggify import POINTS

BusName = Literal["postgres", "kafka"]
Kind = Literal["kill", "point", "pause", "outage", "toxic", "rewind"]
Profile = Literal["pause", "outage", "network"]
PROFILES: tuple[Profile, ...] = ("network", "pause", "outage")
BUSES: tuple[BusName, ...] = ("postgres", "kafka")
LOAD_SECONDS: Mapping[Profile, float] = {"pause": 50.0, "outage": 52.0, "network": 42.0}
PAUSE_SECONDS = 40.0
OUTAGE_SECONDS = 30.0
_OUTAGE_AT = 8.0
_FIRST_AT: Mapping[Profile, float] = {"network": 3.0, "pause": 11.0, "outage": 3.0}
"""Not before the second worker of a relay has got its lease and fallen asleep with it."""
_SPARE_SECONDS = 8.0
"""At the end no new fault begins, so that each has time to happen."""
_KILLED = ("crm", "audit", "identity", "gateway", "witness", "postgres")
_TOXICS: tuple[dict[str, Any], ...] = (
    {"type": "latency", "attributes": {"latency": 60, "jitter": 50}},
    {"type": "latency", "stream": "upstream", "attributes": {"latency": 300, "jitter": 200}, "toxicity": 0.5},
    {"type": "reset_peer", "attributes": {"timeout": 300}, "toxicity": 0.6},
    {"type": "timeout", "attributes": {"timeout": 4000}, "toxicity": 0.4},
    {"type": "slicer", "attributes": {"average_size": 200, "size_variation": 150, "delay": 500}},
    {"type": "limit_data", "attributes": {"bytes": 20_000}, "toxicity": 0.5},
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, ``at`` seconds after the load began. ``target`` is a process, a kill point, a link or a group."""

    id: str
    at: float
    kind: Kind
    target: str
    seconds: float = 0.0
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        lasting = f" for {self.seconds:g} s" if self.seconds else ""
        detail = " ".join(f"{name}={value}" for name, value in self.detail.items())
        return f"+{self.at:5.1f} s  {self.kind:<7} {self.target}{lasting}  {detail}".rstrip()


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything that is decided before a run begins."""

    seed: int
    bus: BusName
    profile: Profile
    seconds: float
    workers: tuple[str, ...]
    """Second workers that run beside the platform's own processes."""
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        head = f"seed {self.seed} on {self.bus}: {self.profile}, {self.seconds:g} s of load"
        return "\n".join([head, *(f"  {fault}" for fault in self.faults)])

    @property
    def kills(self) -> int:
        """How many processes it kills, when each fault happens."""
        action = [fault.detail.get("action", "kill") for fault in self.faults if fault.kind in {"kill", "point"}]
        return action.count("kill") + sum(fault.kind == "outage" for fault in self.faults)


def points_of(bus: BusName) -> tuple[str, ...]:
    """The kill points a bus has: one that takes events in the outbox's own transaction sends nothing."""
    return tuple(point for point in POINTS if bus != "postgres" or point != "relay.sent")


def schedule(seed: int, bus: BusName) -> Schedule:
    """The schedule of a seed on a bus."""
    dice = Random(f"{seed}/{bus}")
    profile = PROFILES[seed % len(PROFILES)]
    seconds = LOAD_SECONDS[profile]
    faults = [*_kills(dice, seed, profile, bus, seconds), *_special(dice, profile, bus, seconds)]
    named = [
        Fault(f"{number}", round(fault.at, 1), fault.kind, fault.target, fault.seconds, fault.detail)
        for number, fault in enumerate(sorted(faults, key=lambda fault: fault.at))
    ]
    workers = ("crm", "audit") if profile == "pause" else ()
    return Schedule(seed, bus, profile, seconds, workers, tuple(named))


def _kills(dice: Random, seed: int, profile: Profile, bus: BusName, seconds: float) -> Iterator[Fault]:
    processes = list(_KILLED)
    if seed % 4 == 0:
        processes.append("supervisor")
    if bus == "kafka" and profile != "outage":
        processes.append("kafka")
    points = list(points_of(bus))
    dice.shuffle(processes)
    dice.shuffle(points)
    away = bus == "kafka" and profile == "outage"
    end = seconds - _SPARE_SECONDS
    if away:
        # While Kafka is away nothing is sent and nothing consumed: those points come before and after.
        early, late = points[:2], points[2:]
        yield from map(_kill, processes, _spread(dice, len(processes), _OUTAGE_AT, _OUTAGE_AT + OUTAGE_SECONDS - 4))
        yield from (_point(dice, *each) for each in zip(early, _spread(dice, len(early), 1.0, 6.0), strict=True))
        after = _OUTAGE_AT + OUTAGE_SECONDS + 1
        yield from (_point(dice, *each) for each in zip(late, _spread(dice, len(late), after, end + 2), strict=True))
        return
    both = [*((_kill, name) for name in processes), *((None, point) for point in points)]
    dice.shuffle(both)
    for (make, name), at in zip(both, _spread(dice, len(both), _FIRST_AT[profile], end), strict=True):
        yield make(name, at) if make else _point(dice, name, at)


def _spread(dice: Random, count: int, first: float, last: float) -> list[float]:
    """Times between ``first`` and ``last``, each somewhere in its own share."""
    share = (last - first) / max(count, 1)
    return [first + share * (number + dice.random()) for number in range(count)]


def _kill(process: str, at: float) -> Fault:
    return Fault("", at, "kill", process)


def _point(dice: Random, point: str, at: float) -> Fault:
    if point.startswith("consumer."):
        processes = dice.choice((["audit", "audit.worker"], ["witness"]))
    elif point.startswith("relay."):
        processes = ["crm", "crm.worker"]
    else:
        processes = ["crm"]
    chance = round(dice.uniform(0.1, 0.6), 2)
    return Fault("", at, "point", point, 0.0, {"action": "kill", "processes": processes, "probability": chance})


def _special(dice: Random, profile: Profile, bus: BusName, seconds: float) -> Iterator[Fault]:
    if profile == "pause":
        # The service's own process sleeps past its lease, so that the second worker has it; then that one sleeps.
        yield Fault("", 0.5, "pause", "crm", 8.0)
        point = "relay.sent" if bus == "kafka" else "relay.read"
        relay = {"action": "pause", "processes": ["crm.worker"], "probability": 1}
        yield Fault("", 1.0, "point", point, PAUSE_SECONDS, relay)
        consumer = {"action": "pause", "processes": ["audit.worker"], "probability": round(dice.uniform(0.2, 0.8), 2)}
        yield Fault("", 2.0, "point", dice.choice(["consumer.handled", "consumer.effect"]), PAUSE_SECONDS, consumer)
    elif profile == "outage":
        if bus == "kafka":
            yield Fault("", _OUTAGE_AT, "outage", "kafka", OUTAGE_SECONDS)
        else:
            at = dice.uniform(seconds * 0.5, seconds * 0.7)
            yield from (Fault("", at + 1.5 * step, "kill", "postgres") for step in range(2))
    else:
        links = ["postgres"] if bus == "postgres" else ["postgres", "kafka"]
        toxics = dice.sample(_TOXICS, 4)
        for toxic, at in zip(toxics, _spread(dice, len(toxics), 2.0, seconds - 8.0), strict=True):
            yield Fault("", at, "toxic", dice.choice(links), round(dice.uniform(2.0, 5.0), 1), toxic)
        for group, at in zip(("audit", "witness"), _spread(dice, 2, seconds * 0.4, seconds * 0.8), strict=True):
            yield Fault("", at, "rewind", group)


def seeds_of(text: str) -> list[int]:
    """``7``, ``1-10``, ``1,4,8-10`` as numbers; raises ``ValueError``."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        found += range(int(first), int(last) + 1) if dash else [int(first)]
    if not found:
        raise ValueError("no seeds")
    return found


def kills_of(schedules: Sequence[Schedule]) -> int:
    """How many kills all of them plan."""
    return sum(each.kills for each in schedules)
