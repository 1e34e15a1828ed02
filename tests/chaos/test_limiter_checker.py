"""The checker of limiter runs finds what is planted: one that cannot fail shows nothing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.limiter_checker import NEVER_SECONDS, check, counted
from tests.chaos.limiter_history import Change, Disturbance, Findings, History, Life, Row
from tests.chaos.limiter_load import LIMITS, Call, Journal, Kind

SECOND = LIMITS["second"]
CLOCK, BEGAN, ENDED = 1_000_000.0, 100.0, 160.0
"""Windows of a second begin with the seconds of monotonic time then, those of a minute at +20 s and +80 s."""


def call(at: float, kind: Kind = "admitted", limit: str = "second", **fields: Any) -> Call:
    """A call that is decided at once, in the window of its time."""
    length = LIMITS[limit].seconds
    ends = (at + CLOCK) // length * length + length - CLOCK if length else at
    return Call(0, 0, at, ends, limit, 0, 1, kind, "lease")._replace(**fields)


def spread(count: int, first: float, kind: Kind = "admitted", seconds: float = 0.9, **fields: Any) -> list[Call]:
    """So many calls in the first part of a window, or whatever ``seconds`` are."""
    return [call(first + 0.001 + seconds * n / max(count, 1), kind, **fields) for n in range(count)]


def overloaded(first: float, admitted: int = SECOND.quota, **fields: Any) -> list[Call]:
    """A window in which many more are refused."""
    return [*spread(admitted, first, seconds=0.4, **fields), *spread(40, first + 0.5, "refused", 0.4, **fields)]


def judge(calls: Sequence[Call], **fields: Any) -> Findings:
    history = History(sorted(calls, key=lambda each: each.at), CLOCK, BEGAN, ENDED, **fields)
    return check(history)


def kinds(found: Findings) -> set[str]:
    return {kind for kind, count in counted(found.violations).items() if count}


def test_what_is_exact_is_sound() -> None:
    rows = [Row("second", 0, CLOCK + 110, 40, 40, 40)]
    found = judge(overloaded(110.0), rows=rows)
    assert (kinds(found), found.overloaded, found.windows) == (set(), 1, 1)


def test_one_too_many() -> None:
    found = judge(overloaded(110.0, 41))
    assert (kinds(found), found.units("overshoot")) == ({"overshoot"}, 1)


def test_one_too_few_where_nothing_was_wrong() -> None:
    assert kinds(judge(overloaded(110.0, 39))) == {"inexact"}
    assert judge(spread(39, 110.0)).overloaded == 0, "nobody asked for more"


def test_a_unit_may_be_left_that_no_call_is_small_enough_for() -> None:
    dear = [call(each.at, each.kind, cost=3) for each in overloaded(110.0, 13)]
    assert kinds(judge(dear)) == set()
    assert kinds(judge(dear[1:])) == {"inexact"}


@pytest.mark.parametrize("kind", ["pause", "partition", "crash", "gone", "freeze"])
def test_what_was_touched_may_be_too_few_and_never_too_many(kind: str) -> None:
    disturbed = [Disturbance(kind, None if kind in {"crash", "gone", "freeze"} else 3, 110.2, 110.4)]
    assert kinds(judge(overloaded(110.0, 20), disturbances=disturbed)) == set()
    assert kinds(judge(overloaded(110.0, 41), disturbances=disturbed)) == {"overshoot"}


def test_the_machine_is_an_excuse_that_is_told() -> None:
    lag = call(110.3, "lag", waited=0.2)
    found = judge([*overloaded(110.0, 39), lag])
    assert (kinds(found), found.excused) == (set(), 1)


def test_a_late_spending_belongs_to_the_window_it_was_debited_in() -> None:
    late = [each._replace(at=each.at + 0.6, waited=0.6) for each in spread(5, 110.5, seconds=0.3)]
    assert kinds(judge([*spread(35, 110.0, seconds=0.4), *late, *overloaded(111.0)])) == set()


# Clients that are wrong.


def test_debits_after_spending() -> None:
    """Eight processes spend what each believes to be left, and tell later."""
    calls = [each._replace(process=process) for process in range(8) for each in overloaded(110.0)]
    rows = [Row("second", 0, CLOCK + 110, 320, 320, 40)]
    found = judge(calls, rows=rows)
    assert {"overshoot", "unaccounted"} <= kinds(found)
    assert found.units("overshoot") == 7 * 40


def test_units_that_come_back_twice() -> None:
    """Ten are granted again: the database has fewer debited than were admitted."""
    found = judge(overloaded(110.0, 50), rows=[Row("second", 0, CLOCK + 110, 40, 50, 40)])
    assert {"overshoot", "unaccounted"} <= kinds(found)


def test_spending_after_the_end_of_the_window() -> None:
    """Units of one window are spent in the next one: who ignores its end says that it is now."""
    left = [call(111.02 + n / 100, window_end=111.02 + n / 100) for n in range(5)]
    rows = [Row("second", 0, CLOCK + 110, 40, 40, 40), Row("second", 0, CLOCK + 111, 40, 40, 40)]
    found = judge([*spread(35, 110.0), *left, *overloaded(111.0)], rows=rows)
    assert {"overshoot", "unaccounted"} <= kinds(found)


def test_a_refusal_that_never_ends() -> None:
    """Every process goes on refusing in the next windows."""
    calls = [*overloaded(110.0), *spread(60, 111.0, "refused"), *spread(60, 112.0, "refused")]
    found = judge(calls)
    assert (kinds(found), found.count("inexact")) == ({"inexact"}, 2)


# Crashes, changes, calls at the same time.


def test_a_crash_wastes_no_more_than_a_lease() -> None:
    killed = [Disturbance("kill", 2, 110.3, 110.3)]
    assert kinds(judge(overloaded(110.0, 30), disturbances=killed)) == set()
    found = judge(overloaded(110.0, 20), disturbances=killed)
    assert (kinds(found), found.waste_judged) == ({"waste"}, 1)


def test_a_lowered_quota_counts_from_the_next_second_on() -> None:
    change = [Change("second", 20, 110.1, 110.2)]
    assert kinds(judge(spread(40, 111.0, seconds=0.15), changes=change)) == set()
    assert kinds(judge(overloaded(111.0), changes=change)) == {"slow-change"}
    assert kinds(judge(overloaded(112.0), changes=change)) == {"overshoot"}
    assert kinds(judge(overloaded(112.0, 20), changes=change)) == set()


def test_a_lowered_quota_counts_within_a_window() -> None:
    change = [Change("minute", 50, 110.1, 110.2)]
    minute = [*spread(80, 100.0, limit="minute", seconds=10.0), *spread(30, 111.0, "refused", limit="minute")]
    assert kinds(judge(minute, changes=change)) == set()
    assert kinds(judge([*minute, call(111.5, limit="minute")], changes=change)) == {"slow-change"}
    cut = [Disturbance("partition", 0, 109.0, 112.0)]
    assert kinds(judge([*minute, call(111.5, limit="minute")], changes=change, disturbances=cut)) == set()


def test_a_raised_quota_is_an_exact_one_afterwards() -> None:
    change = [Change("second", 50, 110.1, 110.2)]
    assert kinds(judge(overloaded(112.0, 50), changes=change)) == set()
    assert kinds(judge(overloaded(112.0, 40), changes=change)) == {"inexact"}


def at_once(count: int, **fields: Any) -> list[Call]:
    return [call(110.0 + n / 1000, limit="concurrent", process=n % 8, **fields) for n in range(count)]


def test_calls_at_the_same_time() -> None:
    most = LIMITS["concurrent"].quota
    assert kinds(judge(at_once(most))) == set()
    assert judge(at_once(most + 2)).units("concurrency") == 2
    ended = call(110.005, "ended", "concurrent", process=0)
    assert kinds(judge([*at_once(most), ended, call(110.2, limit="concurrent")])) == set()


def test_a_dead_process_runs_nothing() -> None:
    calls = [*at_once(12), *(each._replace(at=each.at + 5, generation=1) for each in at_once(4))]
    lives = [Life(process, 0, 112.0, True) for process in range(8)]
    assert kinds(judge(calls)) == {"concurrency"}
    assert kinds(judge(calls, lives=lives)) == set()


def test_who_is_silent_for_longer_than_its_slots_are_kept_counts_no_more() -> None:
    calls = [*at_once(12), *(call(118.0 + n / 1000, limit="concurrent", process=1) for n in range(2))]
    for ended, found in ((113.0, {"concurrency"}), (121.0, set())):
        paused = [Disturbance("pause", 0, 111.0, ended)]
        assert kinds(judge(calls, disturbances=paused)) == found


# While the database is away.

AWAY = [Disturbance("freeze", None, 110.0, 140.0)]


def in_outage(**changes: Call) -> Findings:
    usual = {
        "open": call(130.0, limit="open", source="fallback"),
        "share": call(130.0, limit="share", source="fallback"),
        "strict": call(130.0, "unavailable", limit="strict", source="fallback"),
    }
    back = [call(140.5, limit="open", process=process) for process in range(8)]
    return judge([*(usual | changes).values(), *back], disturbances=AWAY)


def test_each_policy_fails_as_it_says() -> None:
    found = in_outage()
    assert (kinds(found), found.recoveries) == (set(), [0.5] * 8)


@pytest.mark.parametrize(
    "wrong",
    [
        call(130.0, "refused", limit="open", source="fallback"),
        call(130.0, "unavailable", limit="share", source="fallback"),
        call(130.0, limit="strict", source="fallback"),
        call(130.0, limit="strict"),
    ],
)
def test_another_failure_mode(wrong: Call) -> None:
    assert kinds(in_outage(**{wrong.limit: wrong})) == {"failure-mode"}


def test_more_than_a_share() -> None:
    many = spread(1_900, 130.0, limit="share", source="fallback")
    assert kinds(judge([*many, call(130.0, limit="open", source="fallback")], disturbances=AWAY)) == {"failure-mode"}


def test_who_waits_is_found_and_the_machine_is_not_accused() -> None:
    assert kinds(in_outage(open=call(130.0, limit="open", source="fallback", waited=0.07))) == {"wait"}
    found = in_outage(open=call(130.0, limit="open", source="fallback", waited=0.07, lag=0.02))
    assert (kinds(found), found.longest_wait_raw) == (set(), 0.07)
    assert found.longest_wait == pytest.approx(0.05)


def test_who_does_not_come_back() -> None:
    found = judge([call(130.0, limit="open", source="fallback")], disturbances=AWAY)
    assert found.recoveries == [NEVER_SECONDS] * 8


def test_a_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    assert Journal.state(tmp_path / "journal") == 0
    journal.add("hour", "admitted", "database", 1.5, 2.5, key=3, cost=7, waited=0.25, lag=0.125)
    journal.say("ready")
    journal.add("second", "refused", "cached-denial", 1.75, 2.0)
    assert Journal.state(tmp_path / "journal") == 1
    assert list(Journal.read(tmp_path / "journal", 4, 2)) == [
        Call(4, 2, 1.5, 2.5, "hour", 3, 7, "admitted", "database", 0.25, 0.125),
        Call(4, 2, 1.75, 2.0, "second", 0, 0, "refused", "cached-denial"),
    ]


def test_fast_may_pass_its_quota_by_a_tenth() -> None:
    fast = replace(LIMITS["fast"])
    bound = fast.quota + fast.quota // 10 + 8
    assert kinds(judge(spread(bound, 120.0, limit="fast"))) == set()
    assert kinds(judge(spread(bound + 1, 120.0, limit="fast"))) == {"overshoot"}
