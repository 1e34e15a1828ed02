"""Each kind of violation is planted in a sound history and must be reported: a checker that cannot fail shows nothing."""

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest

from shared.ids import new_id
from tests.chaos.history import Effect, Entry, History, Kind, Row, Violation, Write, check, counted

ORGANIZATION, OTHER = new_id(), new_id()
TOPIC = "guardian.alpha.events"
CONSUMERS = ("ledger", "witness")


def _key(name: str) -> str:
    return f"{ORGANIZATION}/{name}"


def sound() -> History:
    """Two keys of three and two versions; a bulk write of both, a refused one, two without an answer."""
    writes = [
        Write("w1", ORGANIZATION, "acknowledged", 2, ((_key("a"), 1), (_key("b"), 1)), "make two"),
        Write("w2", ORGANIZATION, "acknowledged", 1, ((_key("a"), 2),), "change"),
        Write("w3", ORGANIZATION, "failed", 1, (), "stale change"),
        Write("w4", ORGANIZATION, "unknown", 2, (), "change both"),
        Write("w5", ORGANIZATION, "unknown", 1, (), "change"),
    ]
    made = [("a", 1, "w1"), ("b", 1, "w1"), ("a", 2, "w2"), ("a", 3, "w4"), ("b", 2, "w4")]
    log = [
        Entry(new_id(), _key(name), ORGANIZATION, version, write, TOPIC, 0, position)
        for position, (name, version, write) in enumerate(made)
    ]
    effects = [
        Effect(consumer, entry.id, entry.key, ORGANIZATION, entry.sequence, entry.sequence if numbered else None)
        for consumer, numbered in zip(CONSUMERS, (False, True), strict=True)
        for entry in log
    ]
    rows = [Row(_key("a"), ORGANIZATION, 3), Row(_key("b"), ORGANIZATION, 2)]
    return History(writes, rows, log, effects, CONSUMERS, {"outbox": 0})


def _entry(history: History, name: str, version: int) -> Entry:
    return next(each for each in history.log if (each.key, each.sequence) == (_key(name), version))


def _changed_effect(history: History, consumer: str, event_id: UUID, **values: object) -> list[Effect]:
    return [
        replace(each, **values) if (each.consumer, each.event_id) == (consumer, event_id) else each  # type: ignore[arg-type]
        for each in history.effects
    ]


def _without_effect(history: History) -> History:
    gone = _entry(history, "b", 2).id
    effects = [each for each in history.effects if (each.consumer, each.event_id) != ("ledger", gone)]
    return replace(history, effects=effects)


def _without_event(history: History) -> History:
    gone = _entry(history, "a", 2)
    return replace(
        history,
        log=[each for each in history.log if each != gone],
        effects=[replace(each, nth=None) for each in history.effects if each.event_id != gone.id],
    )


def _without_row(history: History) -> History:
    return replace(history, rows=history.rows[:1])


def _older_row(history: History) -> History:
    return replace(history, rows=[replace(history.rows[0], version=1), history.rows[1]])


def _silent_consumer(history: History) -> History:
    return replace(history, effects=[each for each in history.effects if each.consumer != "ledger"])


def _effect_twice(history: History) -> History:
    return replace(history, effects=[*history.effects, history.effects[0]])


def _event_twice(history: History) -> History:
    return replace(history, log=[*history.log, replace(history.log[0], position=99)])


def _version_twice(history: History) -> History:
    again = replace(history.log[-1], id=new_id(), position=99, write=None)
    effects = [Effect(c, again.id, again.key, ORGANIZATION, again.sequence) for c in CONSUMERS]
    return replace(history, log=[*history.log, again], effects=[*history.effects, *effects])


def _write_twice(history: History) -> History:
    """A change was carried out twice: a version more, which carries the same write."""
    again = Entry(new_id(), _key("a"), ORGANIZATION, 4, "w2", TOPIC, 0, 99)
    effects = [Effect(c, again.id, again.key, ORGANIZATION, 4, 4 if c == "witness" else None) for c in CONSUMERS]
    return replace(
        history,
        log=[*history.log, again],
        rows=[replace(history.rows[0], version=4), history.rows[1]],
        effects=[*history.effects, *effects],
    )


def _inverted_log(history: History) -> History:
    first, second = _entry(history, "a", 2), _entry(history, "a", 3)
    places = {first.id: second.position, second.id: first.position}
    return replace(history, log=[replace(each, position=places.get(each.id, each.position)) for each in history.log])


def _inverted_effects(history: History) -> History:
    first, second = _entry(history, "a", 2), _entry(history, "a", 3)
    effects = _changed_effect(history, "witness", first.id, nth=3)
    return replace(history, effects=_changed_effect(replace(history, effects=effects), "witness", second.id, nth=2))


def _spread_key(history: History) -> History:
    return replace(history, log=[replace(each, partition=7) if each.sequence == 3 else each for each in history.log])


def _leaked_effect(history: History) -> History:
    event_id = _entry(history, "a", 1).id
    return replace(history, effects=_changed_effect(history, "ledger", event_id, organization_id=OTHER))


def _leaked_event(history: History) -> History:
    wrong = _entry(history, "a", 3)
    log = [replace(each, organization_id=OTHER) if each == wrong else each for each in history.log]
    effects = [replace(each, organization_id=OTHER) if each.event_id == wrong.id else each for each in history.effects]
    return replace(history, log=log, effects=effects)


def _refused_but_done(history: History) -> History:
    return replace(
        history, writes=[replace(each, outcome="failed") if each.id == "w2" else each for each in history.writes]
    )


def _event_beyond_the_row(history: History) -> History:
    return replace(history, rows=[history.rows[0], replace(history.rows[1], version=1)])


def _effect_of_nothing(history: History) -> History:
    made_up = Effect("ledger", new_id(), _key("a"), ORGANIZATION, 9)
    return replace(history, effects=[*history.effects, made_up])


def _mistaken_effect(history: History) -> History:
    return replace(history, effects=_changed_effect(history, "ledger", _entry(history, "a", 1).id, sequence=2))


def _torn_write(history: History) -> History:
    gone = _entry(history, "b", 2)
    return replace(
        history,
        log=[each for each in history.log if each != gone],
        effects=[each for each in history.effects if each.event_id != gone.id],
        rows=[history.rows[0], replace(history.rows[1], version=1)],
    )


def _full_outbox(history: History) -> History:
    return replace(history, left={"outbox": 3})


PLANTED: list[tuple[Kind, Callable[[History], History]]] = [
    ("lost", _without_effect),
    ("lost", _without_event),
    ("lost", _without_row),
    ("lost", _older_row),
    ("lost", _silent_consumer),
    ("double", _effect_twice),
    ("double", _event_twice),
    ("double", _version_twice),
    ("double", _write_twice),
    ("inversion", _inverted_log),
    ("inversion", _inverted_effects),
    ("inversion", _spread_key),
    ("leaked", _leaked_effect),
    ("leaked", _leaked_event),
    ("phantom", _refused_but_done),
    ("phantom", _event_beyond_the_row),
    ("phantom", _effect_of_nothing),
    ("phantom", _mistaken_effect),
    ("torn", _torn_write),
    ("undrained", _full_outbox),
]


def test_a_sound_history_has_no_violation() -> None:
    assert check(sound()) == []


@pytest.mark.parametrize(("kind", "plant"), PLANTED, ids=[plant.__name__.strip("_") for _, plant in PLANTED])
def test_what_is_planted_is_found(kind: Kind, plant: Callable[[History], History]) -> None:
    found = check(plant(sound()))
    assert kind in {violation.kind for violation in found}, found


def test_every_kind_is_planted() -> None:
    assert {kind for kind, _ in PLANTED} == set(counted([]))


def test_a_bus_may_repeat_where_it_says_so() -> None:
    history = _event_twice(sound())
    assert check(replace(history, log_repeats=True)) == []


def test_what_nobody_answered_may_have_happened_or_not() -> None:
    history = sound()
    assert {write.outcome for write in history.writes if write.id in {"w4", "w5"}} == {"unknown"}
    assert counted(check(history)) == dict.fromkeys(counted([]), 0)


def test_the_first_place_of_a_repeated_event_counts() -> None:
    history = sound()
    late = replace(_entry(history, "a", 1), position=99)
    assert check(replace(history, log=[late, *history.log], log_repeats=True)) == []


def test_a_violation_reads_as_a_sentence() -> None:
    assert str(Violation("undrained", "3 left in outbox")) == "undrained: 3 left in outbox"
