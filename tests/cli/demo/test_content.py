"""The demonstration's history: the same everywhere, whole, in order, and believable."""

import hashlib
import json
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Any

import pytest

from cli.demo import content
from cli.demo.content import HANDFUL, Size
from cli.demo.deals import LOST, WON
from cli.demo.schedule import YEAR, Schedule
from cli.demo.story import LAST_DAY, LAST_SECOND, Date, Operation, When

END = datetime(2026, 5, 14, 15, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def history() -> list[Operation]:
    return content.history()


def _made(history: list[Operation], record: str) -> list[Operation]:
    return [each for each in history if each.record == record and each.action == "create"]


def _plain(value: Any, schedule: Schedule) -> Any:
    if isinstance(value, When):
        return schedule.at(value).isoformat()
    if isinstance(value, Date):
        return schedule.date(value).isoformat()
    return {name: _plain(each, schedule) for name, each in value.items()} if isinstance(value, dict) else value


def test_the_content_of_a_day_is_the_same_on_every_machine(history: list[Operation]) -> None:
    schedule = Schedule(END)
    lines = [
        json.dumps([schedule.at(o.when).isoformat(), o.actor, o.action, o.record, o.ref, _plain(o.values, schedule)])
        for o in history
    ]
    # Changes with the content, on purpose; nothing else may change it.
    assert (
        hashlib.sha256("\n".join(lines).encode()).hexdigest()
        == "90f047db36aae02d59d067dab96802895f8b6d4be79516ec8e43e50c3ad4815f"
    )


def test_there_is_enough_of_everything(history: list[Operation]) -> None:
    left = Counter(each.record for each in history if each.action in ("create", "restore"))
    left.subtract(each.record for each in history if each.action == "delete")
    assert left["contact"] >= 2_100
    assert left["company"] >= 300
    assert left["deal"] >= 420
    assert left["activity"] >= 10_500


def test_the_second_organisation_has_a_handful() -> None:
    made = Counter(each.record for each in content.history(HANDFUL, seed="Tinderbrook Studio"))
    assert 5 <= made["contact"] <= 80
    assert made.total() <= 150


def test_no_two_operations_share_a_time_and_the_last_one_makes_something(history: list[Operation]) -> None:
    times = [each.when for each in history]
    assert all(before < after for before, after in pairwise(times))
    assert history[-1].when == When(LAST_DAY, LAST_SECOND)
    assert history[-1].action == "create"


def test_everything_refers_to_what_is_there_at_that_time(history: list[Operation]) -> None:
    alive: defaultdict[str, set[int]] = defaultdict(set)
    deleted: defaultdict[str, set[int]] = defaultdict(set)
    for each in history:
        for name in ("company", "contact", "deal"):
            reference = each.values.get(name)
            assert reference is None or reference in alive[name], each
        source = deleted if each.action == "restore" else alive
        assert each.action == "create" or each.ref in source[each.record], each
        if each.action == "delete":
            alive[each.record].remove(each.ref)
            deleted[each.record].add(each.ref)
        else:
            alive[each.record].add(each.ref)


def test_addresses_are_unique_and_nobodys(history: list[Operation]) -> None:
    emails = [each.values["email"] for each in _made(history, "contact")]
    assert len(set(emails)) == len(emails)
    assert all(email.endswith((".example", "@example.com")) for email in emails)
    domains = [each.values["domain"] for each in _made(history, "company")]
    assert len(set(domains)) == len(domains)


def test_deals_take_weeks_and_some_are_won(history: list[Operation]) -> None:
    opened = {each.ref: each.when.day for each in _made(history, "deal")}
    decided = {
        each.ref: (each.when.day - opened[each.ref], each.values["stage"])
        for each in history
        if each.record == "deal" and each.values.get("stage") in (WON, LOST) and each.action == "update"
    }
    won = [days for days, stage in decided.values() if stage == WON]
    assert 0.25 < len(won) / len(decided) < 0.5
    assert 15 < median(won) < 60
    assert 40 < len(opened) - len(decided) < 250  # still under way


def test_there_are_busy_quiet_and_silent_accounts(history: list[Operation]) -> None:
    days: defaultdict[int | None, list[int]] = defaultdict(list)
    for each in _made(history, "activity"):
        days[each.values.get("company")].append(each.when.day)
    counts = sorted(len(each) for each in days.values())
    assert counts[-10] > 10 * counts[len(counts) // 2] / 3
    assert counts[len(counts) // 10] < 8
    silent = [each for each in days.values() if len(each) > 10 and max(each) < LAST_DAY - 30]
    assert len(silent) >= 15


def test_work_has_hours_slow_weeks_and_growth(history: list[Operation]) -> None:
    made = _made(history, "activity")[:-1]
    assert all(7 <= each.when.second / 3600 < 19 for each in made)
    perday = Counter(each.when.day for each in made)
    holidays = sum(perday[day] for day in range(28, 38)) / 10
    assert holidays < 0.6 * sum(perday[day] for day in range(40, 60)) / 20
    assert sum(perday[day] for day in range(200, 250)) > 1.5 * sum(perday[day] for day in range(10, 60))


def test_several_people_sell(history: list[Operation]) -> None:
    actors = Counter(each.actor for each in history)
    assert set(actors) == set(range(len(content.TEAM)))
    assert min(actors[each] for each in range(1, 7)) > len(history) / 20


def test_a_smaller_history_is_told_as_completely() -> None:
    small = content.history(Size(companies=4, people=2))
    assert {each.record for each in small} == {"custom_field", "pipeline", "company", "contact", "deal", "activity"}
    assert small == content.history(Size(companies=4, people=2))


@pytest.mark.parametrize("days", range(8))
@pytest.mark.parametrize("since_midnight", [timedelta(seconds=2), timedelta(hours=11), timedelta(hours=24, seconds=-1)])
def test_a_history_fits_any_day(days: int, since_midnight: timedelta) -> None:
    end = datetime(2026, 2, 26, tzinfo=UTC) + timedelta(days=days) + since_midnight
    schedule = Schedule(end)
    assert end - YEAR < schedule.at(When(0, 0))
    assert schedule.at(When(LAST_DAY, 0)).date() == end.date()
    moments = [schedule.at(When(day, second)) for day in range(LAST_DAY + 1) for second in (0, 1, 43_200, LAST_SECOND)]
    assert moments == sorted(set(moments))
    assert moments[-1] < end
    assert all(moment.weekday() < 5 for moment in moments[:-4])
    assert schedule.at(When(LAST_DAY + 3)) > end
    assert schedule.date(Date(LAST_DAY + 6)).weekday() < 5
