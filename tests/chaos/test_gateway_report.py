"""The schedules of gateway runs, and the command's verdict on runs that are made up."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.gateway import Faults, Result, parts_of, report
from tests.chaos.gateway_faults import NEVER_SECONDS
from tests.chaos.gateway_history import KINDS as WRONG
from tests.chaos.gateway_history import Findings, Violation, What
from tests.chaos.gateway_overload import GOOD_SECONDS, Overload, Tally
from tests.chaos.gateway_probes import FLOOR_SECONDS, Probe, p99
from tests.chaos.gateway_schedule import GATEWAYS, KINDS, planned, schedule
from tests.chaos.gateway_slow import Slow

ALL = [schedule(seed) for seed in range(1, 6)]


def test_a_seed_repeats_its_schedule() -> None:
    assert [schedule(each.seed) for each in ALL] == ALL
    assert len({str(each) for each in ALL}) == len(ALL)


def test_every_seed_breaks_everything_and_no_fault_comes_too_late() -> None:
    for each in ALL:
        assert {fault.kind for fault in each.faults} == set(KINDS)
        assert {f"gateway-{number}" for number in range(GATEWAYS)} <= {fault.target for fault in each.faults}
        assert {fault.how for fault in each.faults if fault.kind == "partition"} == {"drop", "hang"}
        assert "0" in {fault.how for fault in each.faults if fault.kind == "cut"}
        assert [fault.at for fault in each.faults] == sorted(fault.at for fault in each.faults)
        assert max(fault.at + fault.seconds for fault in each.faults) < each.seconds


def _faults(**changes: Any) -> Faults:
    findings = Findings(acknowledged=900, replays=90, marked=80, broken=7, retries=6)
    happened = {kind: planned(ALL[:1], kind) for kind in KINDS}
    return replace(Faults(findings, 1_000, happened, 1.5), **changes)


def _overload(good: int = 800, under: float = 0.04, wrong: int = 0, failed: int = 0) -> Overload:
    tally = Tally(300, 10, good=good, refused=2_000, wrong=Counter({"500": wrong}) if wrong else Counter())
    probes = {name: Probe(name, [0.001, 0.002], [0.001, under], failed) for name in ("health", "livez", "sign-in")}
    return Overload(100, tally, probes)


def _slow(**changes: Any) -> Slow:
    return replace(Slow(0.01, 0.05, 640, 0, 555, Counter({200: 640})), **changes)


def _verdict(capsys: pytest.CaptureFixture[str], **parts: Any) -> tuple[int, set[str]]:
    status = report([Result(ALL[0], "abc", **parts)])
    said = json.loads(capsys.readouterr().out)
    assert said["bench"] == "chaos-gateway"
    return status, {bar["name"] for bar in said["bars"] if not bar["holds"]}


def test_a_run_in_which_everything_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert _verdict(capsys, faults=_faults(), overload=_overload(), slow=_slow()) == (0, set())


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_named(kind: What, capsys: pytest.CaptureFixture[str]) -> None:
    faults = _faults(findings=Findings([Violation(kind, "x")], 900, 90, 80, 7, 6))
    assert _verdict(capsys, faults=faults) == (1, {kind.replace("-", "_")})


@pytest.mark.parametrize(
    ("parts", "bars"),
    [
        ({"faults": _faults(recovery=NEVER_SECONDS)}, {"recovery"}),
        ({"faults": _faults(unanswered=["chaos-1"])}, {"unanswered"}),
        ({"faults": _faults(happened={})}, {f"faults_{kind}" for kind in KINDS}),
        ({"faults": _faults(findings=Findings())}, {"seen_replays", "seen_marked", "seen_broken", "seen_retries"}),
        ({"overload": _overload(good=690)}, {"goodput_share"}),
        ({"overload": _overload(under=0.051)}, {"health_slower", "livez_slower", "sign_in_slower"}),
        ({"overload": _overload(wrong=1)}, {"wrong_refusals"}),
        ({"overload": _overload(failed=1)}, {"probes_refused"}),
        ({"slow": _slow(beside=0.051)}, {"honest_slower"}),
        ({"slow": _slow(failed=1)}, {"honest_refused"}),
        ({"slow": _slow(held=499)}, {"slow_connections"}),
        ({"error": "it did not start"}, {"runs_not_judged"}),
    ],
)
def test_figures_have_bounds(parts: dict[str, Any], bars: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _verdict(capsys, **parts) == (1, bars)


def test_only_some_refusals_are_meant() -> None:
    tally = Tally(100, 1)
    again = b"HTTP/1.1 X\r\nRetry-After: 1\r\n\r\n"
    tally.seen((503, again, b'{"code":"overloaded"}'), 0.1)
    tally.seen((429, again, b'{"code":"quota_exceeded"}'), 0.1)
    tally.seen((503, b"HTTP/1.1 X\r\n\r\n", b'{"code":"overloaded"}'), 0.1)
    tally.seen((503, again, b'{"code":"upstream_unavailable"}'), 0.1)
    tally.seen((502, again, b"no JSON"), 0.1)
    tally.seen((200, b"", b"{}"), GOOD_SECONDS)
    tally.seen((200, b"", b"{}"), GOOD_SECONDS + 0.001)
    wrong = {"503 overloaded": 1, "503 upstream_unavailable": 1, "502 ?": 1}
    assert (tally.refused, tally.wrong, tally.good, tally.late) == (2, wrong, 1, 1)


def test_a_baseline_has_a_floor_and_silence_is_no_success() -> None:
    assert Probe("x", [FLOOR_SECONDS / 10], [FLOOR_SECONDS]).ratio == pytest.approx(1)
    assert Probe("x", [0.1], [0.3]).ratio == pytest.approx(3)
    assert p99([]) == float("inf")
    assert p99([*range(100)]) == 99


def test_parts() -> None:
    assert (parts_of("a"), parts_of("a,c")) == ("a", "ac")
    with pytest.raises(ValueError, match="parts are"):
        parts_of("d")
