"""``make bench-start``: a newcomer's first minutes, and what the platform costs while it only stands there.

Clones the project into an empty folder with empty caches, runs ``make run``, and times the first
successful call with the printed key. Then starts it again, measures memory and CPU when idle, presses
Ctrl-C and looks for what stayed. ``--working-tree`` takes the files as they are instead of the last commit.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from deploy.postgres import free_port
from tests.bench.processes import cpu_percent, inside, memory_mb, platform_processes
from tests.bench.report import Report

ROOT = Path(__file__).parents[2]
IDLE_SECONDS = 30.0
QUIET_PERCENT = 5.0
QUIET_DEADLINE_SECONDS = 1200.0
FIRST_START_DEADLINE_SECONDS = 900.0
STOP_SECONDS = 40.0


@dataclass(frozen=True)
class Running:
    """A platform that answers: ``seconds`` from the command to its first successful call."""

    process: subprocess.Popen[bytes]
    demo: dict[str, Any]
    seconds: float

    @property
    def pid(self) -> int:
        return int(self.demo["pid"])

    def client(self) -> httpx.Client:
        key = self.demo["organizations"][0]["api_key"]
        return httpx.Client(base_url=self.demo["base_url"], headers={"Authorization": f"Bearer {key}"}, timeout=10)


def _say(text: str) -> None:
    print(f"bench-start: {text}", file=sys.stderr, flush=True)


def _environment(caches: Path, port: int) -> dict[str, str]:
    """The caller's environment without their settings and with caches of its own, all empty."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith("GUARDIAN_") and k not in {"DATABASE_URL", "VIRTUAL_ENV"}
    }
    kept.pop("MAKEFLAGS", None)
    kept.pop("MAKELEVEL", None)
    return kept | {
        "UV_CACHE_DIR": str(caches / "uv"),
        "PIP_CACHE_DIR": str(caches / "pip"),
        "XDG_CACHE_HOME": str(caches / "xdg"),
        "GUARDIAN_PORT": str(port),
    }


def _copy_project(target: Path, *, working_tree: bool) -> None:
    has_commit = _git("rev-parse", "--verify", "--quiet", "HEAD").returncode == 0
    if has_commit and not working_tree:
        if _git("status", "--porcelain").stdout:
            _say("the working tree has changes that the clone does not (--working-tree measures them)")
        subprocess.run(["git", "clone", "--quiet", "--no-local", str(ROOT), str(target)], check=True)
        return
    _say("measuring the working tree, not a commit")
    for name in _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout.split("\0"):
        source = ROOT / name
        if name and source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


def _git(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)


def _start(clone: Path, environment: dict[str, str], *, deadline: float) -> Running:
    """``make run`` until a call succeeds. The file of an earlier start is removed first, so it is this one's."""
    demo_file = clone / ".guardian" / "demo.json"
    demo_file.unlink(missing_ok=True)
    log = clone.parent / "make-run.log"
    begun = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["make", "run"], cwd=clone, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    while time.monotonic() - begun < deadline:
        if process.poll() is not None:
            sys.exit(f"make run ended with {process.returncode}:\n{log.read_text(errors='replace')[-3000:]}")
        demo = _read_demo(demo_file)
        if demo is not None and _answers(running := Running(process, demo, time.monotonic() - begun)):
            return running
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    sys.exit(f"no call succeeded within {deadline:.0f} s:\n{log.read_text(errors='replace')[-3000:]}")


def _read_demo(path: Path) -> dict[str, Any] | None:
    try:
        demo: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return demo


def _answers(running: Running) -> bool:
    try:
        with running.client() as client:
            return client.get("/v1/contacts", params={"limit": 1}).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _press_ctrl_c(running: Running, folder: Path) -> int:
    """Ctrl-C as a terminal sends it, to the whole foreground group; returns how many processes stayed."""
    known = platform_processes(running.pid, folder)
    os.killpg(running.process.pid, signal.SIGINT)
    try:
        running.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        _say(f"still running {STOP_SECONDS:.0f} s after Ctrl-C")
    _gone, alive = psutil.wait_procs(known, timeout=5)
    left = {process.pid: process for process in (*alive, *inside(folder))}
    for process in left.values():
        _say(f"left behind: {process.pid} {' '.join(process.cmdline())[:100]}")
        process.kill()
    return len(left)


def _wait_until_quiet(running: Running, folder: Path) -> None:
    """The demo history loads behind a progress line; idle begins when that is done."""
    deadline = time.monotonic() + QUIET_DEADLINE_SECONDS
    quiet = 0
    while quiet < 3:
        if time.monotonic() > deadline:
            sys.exit(f"the platform was not quiet {QUIET_DEADLINE_SECONDS:.0f} s after its start")
        quiet = quiet + 1 if cpu_percent(running.pid, folder, 3) < QUIET_PERCENT else 0


@contextmanager
def _workplace(*, keep: bool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="guardian-bench-start-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        for process in inside(folder):
            process.kill()
        if keep:
            _say(f"kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _measure(folder: Path, *, working_tree: bool, rounds: int) -> int:
    clone = folder / "guardian"
    _copy_project(clone, working_tree=working_tree)
    environment = _environment(folder / "caches", free_port())
    _say("first start, with downloads")
    first = _start(clone, environment, deadline=FIRST_START_DEADLINE_SECONDS)
    _say(f"first successful call after {first.seconds:.1f} s")
    with first.client() as client:
        answer = client.post("/v1/contacts", json={"first_name": "Bench", "last_name": "Start"})
        answer.raise_for_status()
        contact = f"/v1/contacts/{answer.json()['id']}"
    _wait_until_quiet(first, folder)
    left, seconds, memory, cpu, kept = [float(_press_ctrl_c(first, folder))], [], [], [], []
    for number in range(rounds):
        later = _start(clone, environment, deadline=120)
        _say(f"later start {number + 1}: {later.seconds:.1f} s")
        seconds.append(later.seconds)
        with later.client() as client:
            kept.append(float(client.get(contact).status_code == httpx.codes.OK))
        _wait_until_quiet(later, folder)
        cpu.append(cpu_percent(later.pid, folder, IDLE_SECONDS))
        memory.append(memory_mb(platform_processes(later.pid, folder)))
        left.append(float(_press_ctrl_c(later, folder)))
    report = Report("start")
    report.median("first_call_s", [first.seconds], 180, better="lower", unit="s")
    report.median("later_start_s", seconds, 8, better="lower", unit="s")
    report.median("idle_pss_mb", memory, 450, better="lower", unit="MB")
    report.median("idle_cpu_percent", cpu, 2, better="lower", unit="% of a core")
    report.bar(
        "left_after_ctrl_c", max(left), 0, better="lower", unit="processes", n=len(left), spread=(min(left), max(left))
    )
    report.bar(
        "data_kept", min(kept), 1, better="higher", unit="share of starts", n=len(kept), spread=(min(kept), max(kept))
    )
    return report.finish()


def main() -> int:
    """Measure and report; 1 when a bar does not hold."""
    parser = argparse.ArgumentParser(prog="make bench-start", description=__doc__)
    parser.add_argument("--working-tree", action="store_true", help="measure the files as they are")
    parser.add_argument("--rounds", type=int, default=3, help="how many later starts")
    parser.add_argument("--keep", action="store_true", help="leave the clone behind for a look")
    options = parser.parse_args()
    with _workplace(keep=options.keep) as folder:
        return _measure(folder, working_tree=options.working_tree, rounds=options.rounds)


if __name__ == "__main__":
    sys.exit(main())
