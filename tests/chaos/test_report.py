"""The command's verdict on runs that are made up: it holds when everything does, and says what does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.events import EVENTS_A_RUN, KILLS_A_RUN, Result, report
from tests.chaos.faults import Account, Outage, Plan
from tests.chaos.history import Violation
from tests.chaos.schedule import Fault, points_of, schedule


def _run(**changes: Any) -> Result:
    points = list(points_of("kafka"))
    pauses = ["crm.worker at relay.sent for 40 s", "audit.worker at consumer.effect for 40 s"]
    outage = Outage(began=10.0, ended=40.0, backlog=500, drain_seconds=6.0)
    account = Account([*points, "crm", "audit", "postgres"], pauses, set(points), [outage])
    values: dict[str, Any] = {"events": EVENTS_A_RUN, "account": account, "outage_share": [0.9]}
    return Result(schedule(1, "kafka"), **(values | changes))


def _verdict(result: Result, capsys: pytest.CaptureFixture[str]) -> tuple[int, set[str]]:
    status = report([result])
    said = json.loads(capsys.readouterr().out)
    assert said["bench"] == "chaos-events"
    return status, {bar["name"] for bar in said["bars"] if not bar["holds"]}


def test_a_run_in_which_everything_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(_run().account.kills) >= KILLS_A_RUN
    assert _verdict(_run(), capsys) == (0, set())


@pytest.mark.parametrize(
    ("changes", "bar"),
    [
        ({"violations": [Violation("lost", "x")]}, "lost"),
        ({"violations": [Violation("torn", "x")]}, "lost"),
        ({"violations": [Violation("undrained", "x")]}, "lost"),
        ({"violations": [Violation("double", "x")]}, "double_effects"),
        ({"violations": [Violation("inversion", "x")]}, "inversions"),
        ({"violations": [Violation("leaked", "x")]}, "leaked_or_phantom"),
        ({"violations": [Violation("phantom", "x")]}, "leaked_or_phantom"),
        ({"error": "it did not start"}, "runs_not_judged"),
        ({"events": EVENTS_A_RUN - 1}, "events"),
        ({"outage_share": [0.1]}, "writes_during_outage"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_hold_is_named(changes: dict[str, Any], bar: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _verdict(_run(**changes), capsys) == (1, {bar})


@pytest.mark.parametrize(
    ("broken", "bar"),
    [
        (lambda account: account.fired.discard("relay.sent"), "kill_points_fired"),
        (lambda account: account.kills.clear(), "sigkills"),
        (lambda account: account.pauses.pop(), "consumers_paused"),
        (lambda account: setattr(account.outages[0], "drain_seconds", 61.0), "drain_ratio"),
        (lambda account: setattr(account.outages[0], "drain_seconds", None), "drain_ratio"),
    ],
    ids=["point", "kills", "pause", "slow drain", "no drain"],
)
def test_what_did_not_happen_is_named(broken: Any, bar: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = _run()
    broken(run.account)
    assert _verdict(run, capsys) == (1, {bar})


def test_a_plan_is_armed_changed_and_read_back(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "plan.json", 7)
    fault = Fault("3", 1.0, "point", "relay.sent", detail={"action": "kill", "probability": 0.1})
    plan.arm(fault, probability=1)
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written == {"seed": 7, "faults": [{"id": "3", "point": "relay.sent", "action": "kill", "probability": 1}]}
    assert plan.firing(fault) is None
    (tmp_path / "plan.json.log").write_text(
        '{"started":"crm","pid":1,"at":5.0}\n{"id":"3","process":"crm","pid":1,"at":6.0}\n'
    )
    assert plan.started(1) == 5.0
    assert (plan.firing(fault) or {})["process"] == "crm"
    plan.disarm()
    assert json.loads((tmp_path / "plan.json").read_text())["faults"] == []
