"""``make chaos-limiter SEEDS=1-10``: limits hold while everything that enforces them is broken.

For each seed: a PostgreSQL that keeps its promises, eight processes with a lease client each that ask for more than
there is, the seed's faults; then what was admitted is checked, window by window. One seed again: ``SEEDS=7``.
"""

import argparse
import asyncio
import json
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.report import Report
from tests.chaos.folder import run_in_folder
from tests.chaos.limiter_checker import RECOVERY_SECONDS, WAIT_SECONDS, check, counted
from tests.chaos.limiter_history import Findings, History
from tests.chaos.limiter_load import Call
from tests.chaos.limiter_mutants import MUTANTS
from tests.chaos.limiter_schedule import DISTURBING, Kind, Schedule, planned, schedule
from tests.chaos.limiter_system import Fleet
from tests.chaos.schedule import seeds_of

_SHOWN = 15
_FLOORS: tuple[tuple[str, tuple[Kind, ...]], ...] = (
    ("sigkills", ("kill", "crash", "gone")), ("pauses", ("pause", "freeze")), ("partitions", ("partition",)),
    ("changes", ("change",)),
)  # fmt: skip


@dataclass
class Result:
    """What one seed came to."""

    schedule: Schedule
    seconds: float = 0.0
    calls: int = 0
    admitted: int = 0
    findings: Findings = field(default_factory=Findings)
    happened: dict[Kind, int] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    error: str | None = None

    @property
    def sound(self) -> bool:
        return self.error is None and not self.findings.violations and not self.missed

    def count(self, *kinds: Kind) -> int:
        """How many faults of these kinds really happened."""
        return sum(self.happened.get(kind, 0) for kind in kinds)

    def __str__(self) -> str:
        made = self.findings
        wrong = ", ".join(f"{count} {kind}" for kind, count in counted(made.violations).items() if count)
        done = " ".join(f"{count} {kind}" for kind, count in self.happened.items() if count)
        return (
            f"{'✓' if self.sound else '✗'} {self.schedule.seed:>3} {self.schedule.profile:<6} {self.seconds:4.0f} s"
            f" {self.calls:7,} calls {self.admitted:6,} admitted; {made.windows} windows, {made.overloaded} overloaded and"
            f" untouched ({made.excused} excused); {done}"
            + (f"  VIOLATIONS: {wrong}" if wrong else "") + (f"  ERROR: {self.error}" if self.error else "")
        )  # fmt: skip


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)


async def run(plan: Schedule, folder: Path, mutant: str) -> Result:
    """One seed."""
    result, begun = Result(plan), time.monotonic()
    fleet = Fleet(folder, plan, say, mutant=mutant)
    try:
        before = _clock()
        async with fleet.running():
            say(f"  ready after {time.monotonic() - begun:.0f} s")
            await fleet.carry_out()
            ended = time.monotonic()
            await fleet.stop()
            calls, rows = fleet.calls(), await fleet.rows()
            history = History(
                calls, (before + _clock()) / 2, fleet.began, ended, fleet.disturbances, fleet.changes, fleet.lives, rows
            )
            _judge(result, history, folder)
        for kind in (*DISTURBING, "change"):
            result.happened[kind] = sum(each.kind == kind for each in fleet.disturbances)
        result.happened["change"] = len(fleet.changes)
        result.missed = fleet.missed
    except Exception as error:
        (folder / "error.txt").write_text(traceback.format_exc())
        result.error = f"{type(error).__name__}: {error}"
    result.seconds = time.monotonic() - begun
    return result


def _clock() -> float:
    """What makes the database's time of monotonic time; ours is its machine."""
    return time.time() - time.monotonic()


def _judge(result: Result, history: History, folder: Path) -> None:
    result.findings = check(history)
    result.calls = sum(call.kind not in {"lag", "ended"} for call in history.calls)
    result.admitted = sum(call.kind == "admitted" for call in history.calls)
    violations = result.findings.violations
    if violations:
        (folder / "violations.txt").write_text("".join(f"{each}\n" for each in violations))
        (folder / "calls.txt").write_text("".join(_line(each, history.began) for each in history.calls))
        faults = [*history.disturbances, *history.changes]
        (folder / "faults.txt").write_text(
            f"began {history.began}, clock {history.clock}\n" + "\n".join(map(str, faults))
        )
        for violation in violations[:_SHOWN]:
            say(f"  {violation}")


def _line(call: Call, began: float) -> str:
    return f"{call.at - began:.4f} {json.dumps(call._replace(at=round(call.at, 4)))}\n"


async def run_all(root: Path, seeds: Sequence[int], seconds: float | None, mutant: str, *, keep: bool) -> list[Result]:
    """Every seed, one after the other."""
    results: list[Result] = []
    for seed in seeds:
        plan, folder = schedule(seed, seconds), root / f"{seed}"
        folder.mkdir()
        folder.chmod(0o755)
        say(str(plan))
        results.append(await run(plan, folder, mutant))
        say(str(results[-1]))
        if results[-1].sound and not keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            say(f"  evidence in {folder}; again with: make chaos-limiter SEEDS={seed}")
    return results


def report(results: Sequence[Result]) -> int:
    """The table, the bars, the JSON line; the exit status."""
    say("\n".join(["", *map(str, results), ""]))
    for result in results:
        for missed in result.missed:
            say(f"  seed {result.schedule.seed} missed {missed}")
    made, found = Report("chaos-limiter"), [result.findings for result in results]

    def none(name: str, value: float, unit: str, n: int) -> None:
        made.bar(name, value, 0, better="lower", unit=unit, n=n)

    windows = sum(each.windows for each in found)
    judged = sum(each.overloaded for each in found)
    none("overshoot_units", sum(each.units("overshoot") for each in found), "units beyond a quota", windows)
    none("inexact_windows", sum(each.count("inexact") for each in found), "overloaded and untouched windows", judged)
    none("unaccounted_windows", sum(each.count("unaccounted") for each in found), "windows", windows)
    none("slow_changes", sum(each.count("slow-change") for each in found), "windows", planned_in(results, "change"))
    none("too_many_at_once", sum(each.units("concurrency") for each in found), "calls at the same time", len(results))
    none(
        "wrong_failure_modes", sum(each.count("failure-mode") for each in found), "calls", sum(r.calls for r in results)
    )
    wasted = sum(each.waste_judged for each in found)
    none("waste_over_bound", sum(each.units("waste") for each in found), "units lost in a crash", wasted)
    _times(made, found)
    for name, kinds in _FLOORS:
        made.bar(
            name, sum(result.count(*kinds) for result in results), planned_in(results, *kinds), better="higher",
            unit="planned by the seeds", n=len(results),
        )  # fmt: skip
    none("runs_not_judged", sum(result.error is not None for result in results), "runs", len(results))
    return made.finish()


def _times(made: Report, found: Sequence[Findings]) -> None:
    waits = sum(each.waits for each in found)
    raw = max((each.longest_wait_raw for each in found), default=0.0)
    say(f"the longest wait without a database, with what the machine was late by: {raw * 1000:.0f} ms")
    longest = max((each.longest_wait for each in found), default=0.0)
    made.bar("longest_wait", longest * 1000, WAIT_SECONDS * 1000, better="lower", unit="ms in check()", n=waits)
    recoveries = [each for one in found for each in one.recoveries]
    if recoveries:
        slowest = max(recoveries)
        made.bar("recovery", slowest, RECOVERY_SECONDS, better="lower", unit="s after an outage", n=len(recoveries),
                 spread=(min(recoveries), slowest))  # fmt: skip


def planned_in(results: Sequence[Result], *kinds: Kind) -> int:
    """How many faults of these kinds the seeds have."""
    return planned([result.schedule for result in results], *kinds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos-limiter", description=__doc__)
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("1-10"), help="such as 7 or 1-10 (default: 1-10)")
    parser.add_argument("--seconds", type=float, help="of load in each run (default: as the profile has it)")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), default="", help="a client that is wrong, to see it found")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a sound run, too")
    return parser.parse_args()


def main() -> int:
    """Run and report; 1 when a bar does not hold."""
    chosen = _options()
    return run_in_folder(
        lambda root: asyncio.run(run_all(root, chosen.seeds, chosen.seconds, chosen.mutant, keep=chosen.keep)),
        report,
        keep=chosen.keep,
    )


if __name__ == "__main__":
    sys.exit(main())
