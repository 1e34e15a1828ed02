import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.buggify import POINTS, VARIABLE, process_name

ROOT = Path(__file__).parents[2]
_PASS = (
    "import sys\nfrom shared.buggify import buggify\nfor n in range({times}): print(n, flush=True); buggify({point!r})"
)


def _plan(folder: Path, *faults: dict[str, Any], seed: int = 7) -> Path:
    plan = folder / "plan.json"
    partial = folder / "plan.partial"
    partial.write_text(json.dumps({"seed": seed, "faults": faults}))
    partial.replace(plan)
    return plan


def _passes(plan: Path, *, point: str = "relay.sent", times: int = 200, name: str = "alpha", **environment: str) -> int:
    """How often a process passes the point before it dies there; ``times`` when it does not."""
    code = _PASS.format(times=times, point=point)
    done = subprocess.run(
        [sys.executable, "-c", code, "run", name], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, VARIABLE: str(plan), **environment},
    )  # fmt: skip
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr
    reached = len(done.stdout.splitlines())
    return reached - 1 if done.returncode else reached


def _log(plan: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in plan.with_name("plan.json.log").read_text().splitlines()]


def _fault(**values: Any) -> dict[str, Any]:
    return {"id": "a", "point": "relay.sent", "action": "kill", **values}


def test_a_fault_kills_where_it_says_and_writes_it_down_before(tmp_path: Path) -> None:
    plan = _plan(tmp_path, _fault())
    assert _passes(plan) == 0
    started, fired = _log(plan)
    assert started["started"] == "alpha"
    assert (fired["point"], fired["action"], fired["process"]) == ("relay.sent", "kill", "alpha")


def test_nothing_happens_at_other_points_in_other_processes_or_in_production(tmp_path: Path) -> None:
    plan = _plan(tmp_path, _fault(processes=["alpha"]))
    assert _passes(plan, point="relay.read") == 200
    assert _passes(plan, name="beta") == 200
    assert _passes(plan, GUARDIAN_ENVIRONMENT="production") == 200
    assert [line for line in _log(plan) if "id" in line] == []


def test_a_fault_fires_no_more_often_than_it_may(tmp_path: Path) -> None:
    plan = _plan(tmp_path, _fault(most=2))
    assert [_passes(plan) for _ in range(4)] == [0, 0, 200, 200]


def test_a_seed_repeats_its_dice_and_an_incarnation_does_not(tmp_path: Path) -> None:
    def run(folder: str, seed: int) -> list[int]:
        (tmp_path / folder).mkdir()
        plan = _plan(tmp_path / folder, _fault(probability=0.02, most=9), seed=seed)
        return [_passes(plan, times=2000) for _ in range(4)]

    first = run("first", 7)
    assert run("again", 7) == first
    assert len(set(first)) > 2
    assert run("other", 8) != first


def test_the_first_dice_are_thrown_once_for_a_seed(tmp_path: Path) -> None:
    chosen = [_passes(_plan(tmp_path, _fault(activation=0.5, most=99), seed=seed), times=1) == 0 for seed in range(12)]
    assert {True, False} == set(chosen)
    again = [_passes(_plan(tmp_path, _fault(activation=0.5, most=99), seed=seed), times=1) == 0 for seed in range(12)]
    assert again == chosen


@contextmanager
def _running(plan: Path) -> Iterator["subprocess.Popen[str]"]:
    code = "import time\nfrom shared.buggify import buggify\nwhile True: buggify('relay.sent'); time.sleep(0.01)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, VARIABLE: str(plan)}, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_running_process_is_armed_paused_and_resumed(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    with _running(plan) as process:
        deadline = time.monotonic() + 20
        while not plan.with_name("plan.json.log").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.3)
        assert process.poll() is None
        _plan(tmp_path, _fault(action="pause"))
        while _state(process.pid) != "T":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        _plan(tmp_path)
        os.kill(process.pid, signal.SIGCONT)
        _plan(tmp_path, _fault(id="b"))
        assert process.wait(timeout=10) == -signal.SIGKILL
    assert [line["id"] for line in _log(plan) if "id" in line] == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["/x/guardian", "run", "alpha"], "alpha"),
        (["/x/cli/main.py", "run", "alpha", "--role", "worker", "--fd", "5"], "alpha.worker"),
        (["guardian", "run", "alpha", "--role=all"], "alpha"),
        (["/x/cli/main.py", "up", "--split"], "main"),
        (["/x/witness.py"], "witness"),
        ([""], "python"),
        (["guardian", "run"], "guardian"),
    ],
)
def test_a_process_is_called_by_its_command(arguments: list[str], name: str) -> None:
    assert process_name(arguments) == name


def test_a_plan_that_names_no_point_is_refused(tmp_path: Path) -> None:
    plan = _plan(tmp_path, _fault(point="relay.nowhere"))
    with pytest.raises(AssertionError, match=r"no point 'relay\.nowhere'"):
        _passes(plan)


def test_every_point_is_passed_somewhere() -> None:
    code = "".join(path.read_text() for path in (ROOT / "shared").rglob("*.py") if path.name != "buggify.py")
    assert {point for point in POINTS if f'buggify("{point}")' in code} == set(POINTS)
