"""The schedules of limiter runs, and the command's verdict on runs that are made up."""

import json
from typing import Any

import pytest

from tests.chaos.limiter import Result, report
from tests.chaos.limiter_checker import NEVER_SECONDS
from tests.chaos.limiter_history import Findings, Violation, What
from tests.chaos.limiter_load import PROCESSES
from tests.chaos.limiter_schedule import OUTAGE_SECONDS, PROFILES, PROXIED, planned, schedule, skew_of

ALL = [schedule(seed) for seed in range(1, 11)]


def test_a_seed_repeats_its_schedule() -> None:
    assert [schedule(each.seed) for each in ALL] == ALL
    assert len({str(each) for each in ALL}) == len(ALL)
    assert {schedule(seed).profile for seed in range(3, 7)} == set(PROFILES)


def test_ten_seeds_break_enough() -> None:
    assert planned(ALL, "kill", "crash", "gone") >= 35
    assert planned(ALL, "pause", "freeze") >= 12
    assert planned(ALL, "partition") >= 12
    assert planned(ALL, "change") >= 35
    assert max(fault.seconds for each in ALL for fault in each.faults if fault.kind == "pause") > 10
    assert {fault.cut for each in ALL for fault in each.faults if fault.kind == "partition"} == {"drop", "hang", "half"}
    outages = [fault for each in ALL for fault in each.faults if fault.kind in {"freeze", "gone"}]
    assert {fault.kind for fault in outages} == {"freeze", "gone"}
    assert all(fault.seconds == OUTAGE_SECONDS for fault in outages)


@pytest.mark.parametrize("each", ALL, ids=lambda each: f"{each.seed}-{each.profile}")
def test_every_fault_has_the_time_to_happen(each: Any) -> None:
    assert [fault.at for fault in each.faults] == sorted(fault.at for fault in each.faults)
    for fault in each.faults:
        assert 0 < fault.at < each.seconds
        if fault.kind in {"kill", "pause"}:
            assert int(fault.target) < PROCESSES
        if fault.kind == "partition":
            assert int(fault.target) < PROXIED
    if each.profile == "calm":
        assert {fault.kind for fault in each.faults} == {"change"}


def test_clocks_differ_by_minutes() -> None:
    skews = [skew_of(1, process, 0) for process in range(PROCESSES)]
    assert max(skews) - min(skews) > 300
    assert skew_of(1, 0, 0) != skew_of(1, 0, 1)


def test_a_shorter_run_leaves_out_what_comes_too_late() -> None:
    assert 0 < len(schedule(5, 30.0).faults) < len(schedule(5).faults)


def _run(**changes: Any) -> Result:
    plan = schedule(6)
    happened = {fault.kind: plan.count(fault.kind) for fault in plan.faults}
    findings = Findings(windows=200, overloaded=20, waste_judged=5, waits=9, longest_wait=0.051, recoveries=[0.4, 1.6])
    values: dict[str, Any] = {"findings": findings, "happened": happened, "calls": 40_000}
    return Result(plan, **(values | changes))


def _verdict(result: Result, capsys: pytest.CaptureFixture[str]) -> tuple[int, set[str]]:
    status = report([result])
    said = json.loads(capsys.readouterr().out)
    assert said["bench"] == "chaos-limiter"
    return status, {bar["name"] for bar in said["bars"] if not bar["holds"]}


def test_a_run_in_which_everything_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert _verdict(_run(), capsys) == (0, set())


@pytest.mark.parametrize(
    ("kind", "bar"),
    [
        ("overshoot", "overshoot_units"),
        ("inexact", "inexact_windows"),
        ("unaccounted", "unaccounted_windows"),
        ("slow-change", "slow_changes"),
        ("concurrency", "too_many_at_once"),
        ("failure-mode", "wrong_failure_modes"),
        ("waste", "waste_over_bound"),
    ],
)
def test_what_does_not_hold_is_named(kind: What, bar: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = _run()
    run.findings.violations.append(Violation(kind, "x"))
    assert _verdict(run, capsys) == (1, {bar})


@pytest.mark.parametrize(
    ("changes", "bars"),
    [
        ({"findings": Findings(longest_wait=0.061)}, {"longest_wait"}),
        ({"findings": Findings(recoveries=[0.4, 2.1])}, {"recovery"}),
        ({"findings": Findings(recoveries=[NEVER_SECONDS])}, {"recovery"}),
        ({"error": "it did not start"}, {"runs_not_judged"}),
        ({"happened": {}}, {"sigkills", "pauses", "partitions", "changes"}),
    ],
)
def test_figures_have_bounds(changes: dict[str, Any], bars: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _verdict(_run(**changes), capsys) == (1, bars)
