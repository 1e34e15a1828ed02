"""What a fault run left behind, and whether it hangs together.

A history is what clients were told (``writes``), the rows that are there, the events in the log and the effects
consumers had. ``check`` compares them: what was acknowledged is there; every version of a row has its event, in
order; every event has each consumer's effect exactly once, in order, in its own organisation; what was refused
left nothing; what got no answer happened wholly or not at all.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal
from uuid import UUID

Outcome = Literal["acknowledged", "failed", "unknown"]
Kind = Literal["lost", "double", "inversion", "leaked", "phantom", "torn", "undrained"]
KINDS: tuple[Kind, ...] = ("lost", "double", "inversion", "leaked", "phantom", "torn", "undrained")
"""Something acknowledged, a version, an event or an effect is missing; an effect (or an event, where the bus does
not repeat) is there twice; effects or events of one key are out of order; they are in another organisation; there
is an event or an effect of what never was; a write happened in part; something was left in an outbox or dead."""


@dataclass(frozen=True, slots=True)
class Write:
    """One operation as its client saw it. ``versions`` are the (key, version) it was told it made."""

    id: str
    """Travels as the request's id, so that whatever the operation caused can be found by it."""
    organization_id: UUID
    outcome: Outcome
    events: int
    """How many events it causes when it happens."""
    versions: tuple[tuple[str, int], ...] = ()
    what: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """An entity as it is stored now. ``key`` is the partition key of its events."""

    key: str
    organization_id: UUID
    version: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log."""

    id: UUID
    key: str
    organization_id: UUID
    sequence: int
    write: str | None
    topic: str
    partition: int
    position: int


@dataclass(frozen=True, slots=True)
class Effect:
    """One effect of one consumer. ``nth`` counts the effects of its key in the order they were committed."""

    consumer: str
    event_id: UUID
    key: str
    organization_id: UUID
    sequence: int
    nth: int | None = None
    """None where the consumer keeps no order."""


@dataclass(frozen=True, slots=True)
class Violation:
    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(slots=True)
class History:
    """Everything there is to check. Consumers without any effect are named, or their loss would not be seen."""

    writes: Sequence[Write] = ()
    rows: Sequence[Row] = ()
    log: Sequence[Entry] = ()
    effects: Sequence[Effect] = ()
    consumers: Sequence[str] = ()
    left: Mapping[str, int] = field(default_factory=dict)
    """What should be empty by now (outboxes, dead letters) and how much is in it."""
    log_repeats: bool = False
    """Whether the bus may hold an event twice (a relay that died between sending and removing)."""

    @property
    def events(self) -> dict[UUID, Entry]:
        """The first appearance of every event, in the order of their topics, partitions and positions."""
        found: dict[UUID, Entry] = {}
        for entry in sorted(self.log, key=lambda entry: (entry.topic, entry.partition, entry.position)):
            found.setdefault(entry.id, entry)
        return found


def check(history: History) -> list[Violation]:
    """Every violation, in no order that means anything."""
    events = history.events
    return [
        *_log(history, events),
        *_rows(history, events),
        *_writes(history, events),
        *_effects(history, events),
        *(Violation("undrained", f"{count} left in {name}") for name, count in history.left.items() if count),
    ]


def counted(violations: Iterable[Violation]) -> dict[Kind, int]:
    """How many of each kind."""
    found = Counter(violation.kind for violation in violations)
    return {kind: found[kind] for kind in KINDS}


def _log(history: History, events: Mapping[UUID, Entry]) -> Iterator[Violation]:
    if not history.log_repeats:
        for event_id, count in Counter(entry.id for entry in history.log).items():
            if count > 1:
                yield Violation("double", f"event {event_id} stands {count} times in the log")
    for key, entries in _by_key(events.values()).items():
        places = {(entry.topic, entry.partition) for entry in entries}
        if len(places) > 1:
            yield Violation("inversion", f"{key} is spread over {sorted(places)}")
        yield from _falling(f"{key} in the log", [entry.sequence for entry in entries])


def _falling(what: str, sequences: Sequence[int]) -> Iterator[Violation]:
    for before, after in pairwise(sequences):
        if after < before:
            yield Violation("inversion", f"{what}: {after} comes after {before}")


def _rows(history: History, events: Mapping[UUID, Entry]) -> Iterator[Violation]:
    by_key = _by_key(events.values())
    for row in history.rows:
        entries = by_key.get(row.key, [])
        there = Counter(entry.sequence for entry in entries)
        for version in range(1, row.version + 1):
            if there[version] == 0:
                yield Violation("lost", f"version {version} of {row.key} has no event")
        for version, count in there.items():
            if not 1 <= version <= row.version:
                yield Violation("phantom", f"{row.key} has an event {version}, its row is at {row.version}")
            elif count > 1:
                yield Violation("double", f"version {version} of {row.key} has {count} events")
        for entry in entries:
            if entry.organization_id != row.organization_id:
                yield Violation("leaked", f"event {entry.id} of {row.key} is in {entry.organization_id}")


def _writes(history: History, events: Mapping[UUID, Entry]) -> Iterator[Violation]:
    rows = {row.key: row.version for row in history.rows}
    caused: dict[str, list[Entry]] = defaultdict(list)
    for entry in events.values():
        if entry.write is not None:
            caused[entry.write].append(entry)
    for write in history.writes:
        entries = caused.get(write.id, [])
        yield from _count(write, len(entries))
        for entry in entries:
            if entry.organization_id != write.organization_id:
                yield Violation("leaked", f"event {entry.id} of {_named(write)} is in {entry.organization_id}")
        if write.outcome == "acknowledged":
            there = {(entry.key, entry.sequence) for entry in entries}
            for key, version in write.versions:
                if rows.get(key, 0) < version:
                    yield Violation("lost", f"{_named(write)} made {key} {version}, its row is at {rows.get(key)}")
                if (key, version) not in there:
                    yield Violation("lost", f"{_named(write)} made {key} {version}, which is no event of its")


def _count(write: Write, caused: int) -> Iterator[Violation]:
    if caused > write.events:
        kind: Kind = "phantom" if write.outcome == "failed" else "double"
        yield Violation(kind, f"{_named(write)} caused {caused} events, not {write.events}")
    elif write.outcome == "failed" and caused:
        yield Violation("phantom", f"{_named(write)} caused {caused} events")
    elif write.outcome == "acknowledged" and caused < write.events:
        yield Violation("lost", f"{_named(write)} caused {caused} events, not {write.events}")
    elif write.outcome == "unknown" and 0 < caused < write.events:
        yield Violation("torn", f"{_named(write)} caused {caused} events of {write.events}")


def _effects(history: History, events: Mapping[UUID, Entry]) -> Iterator[Violation]:
    by_consumer: dict[str, list[Effect]] = {consumer: [] for consumer in history.consumers}
    for effect in history.effects:
        by_consumer.setdefault(effect.consumer, []).append(effect)
    for consumer, effects in by_consumer.items():
        there = Counter(effect.event_id for effect in effects)
        for event_id, entry in events.items():
            if there[event_id] != 1:
                kind: Kind = "double" if there[event_id] else "lost"
                what = f"event {event_id} ({entry.key} {entry.sequence})"
                yield Violation(kind, f"{what} had {there[event_id]} effects in {consumer}")
        yield from _strange(effects, events)
        yield from _order(consumer, effects)


def _strange(effects: Iterable[Effect], events: Mapping[UUID, Entry]) -> Iterator[Violation]:
    for effect in effects:
        entry = events.get(effect.event_id)
        if entry is None:
            yield Violation("phantom", f"{effect.consumer} had an effect of {effect.event_id}, which is no event")
        elif effect.organization_id != entry.organization_id:
            yield Violation("leaked", f"{effect.consumer} had the effect of {entry.id} in {effect.organization_id}")
        elif (effect.key, effect.sequence) != (entry.key, entry.sequence):
            told, real = f"{effect.key} {effect.sequence}", f"{entry.key} {entry.sequence}"
            yield Violation("phantom", f"{effect.consumer} took {entry.id} for {told}, it is {real}")


def _order(consumer: str, effects: Iterable[Effect]) -> Iterator[Violation]:
    ordered: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for effect in effects:
        if effect.nth is not None:
            ordered[effect.key].append((effect.nth, effect.sequence))
    for key, numbered in ordered.items():
        numbered.sort()
        yield from _falling(f"{key} in {consumer}", [sequence for _, sequence in numbered])
        if [nth for nth, _ in numbered] != list(range(1, len(numbered) + 1)):
            yield Violation("lost", f"the effects of {key} in {consumer} are not numbered without a gap")


def _by_key(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[entry.key].append(entry)
    return found


def _named(write: Write) -> str:
    return f"write {write.id} ({write.what}, {write.outcome})"
