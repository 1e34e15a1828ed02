"""``make chaos-gateway SEEDS=1-5``: what the gateway promises holds while everything around it is broken, or too much.

For each seed a PostgreSQL that keeps its promises, a process for each service and two gateways. Part a breaks them and
compares what clients were told with what is there; part b offers three times what the platform can do; part c holds
five hundred slow connections open. One seed again: ``SEEDS=7``.
"""

import argparse
import asyncio
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from tests.bench.report import Report
from tests.chaos.folder import run_in_folder
from tests.chaos.gateway_checker import check, counted
from tests.chaos.gateway_faults import RECOVERY_SECONDS, Injector, recovery
from tests.chaos.gateway_history import Findings, History, Outage
from tests.chaos.gateway_load import Load, fill
from tests.chaos.gateway_mutants import MUTANTS
from tests.chaos.gateway_overload import Overload, overload
from tests.chaos.gateway_schedule import KINDS, Kind, Schedule, planned, schedule
from tests.chaos.gateway_slow import Slow, slow
from tests.chaos.gateway_system import System
from tests.chaos.schedule import seeds_of

PARTS = ("a", "b", "c")
_SHOWN = 15
GOODPUT_SHARE, SLOWER = 0.7, 2.0


@dataclass
class Faults:
    """What part a came to."""

    findings: Findings
    operations: int
    happened: dict[Kind, int]
    recovery: float
    unanswered: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    away: float = 0.0
    """Seconds without PostgreSQL, which takes the longer to come back the busier the disk is."""

    def __str__(self) -> str:
        made = self.findings
        done = " ".join(f"{count} {kind}" for kind, count in self.happened.items() if count)
        told = ", ".join(f"{count} {said}" for said, count in made.told.most_common())
        wrong = ", ".join(f"{count} {kind}" for kind, count in counted(made.violations).items() if count)
        return (
            f"  a: {self.operations:,} operations, {made.acknowledged:,} done, {made.marked} answered again,"
            f" {made.replays} replays refused, {made.broken} answers broken off, {made.retries} retries;"
            f" back after {self.recovery:.1f} s; {done}; PostgreSQL away for {self.away:.1f} s; besides: {told}"
            + (f"  VIOLATIONS: {wrong}" if wrong else "")
        )


@dataclass
class Result:
    """What one seed came to; a part that was not asked for is None."""

    schedule: Schedule
    parts: str
    seconds: float = 0.0
    faults: Faults | None = None
    overload: Overload | None = None
    slow: Slow | None = None
    error: str | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing was wrong in part a, and nothing broke."""
        made = self.faults
        return self.error is None and (made is None or not (made.findings.violations or made.unanswered or made.missed))

    def __str__(self) -> str:
        head = f"{'✓' if self.sound else '✗'} seed {self.schedule.seed}, {self.seconds:.0f} s"
        parts = [str(each) for each in (self.faults, self.overload, self.slow) if each is not None]
        return "\n".join([head + (f"  ERROR: {self.error}" if self.error else ""), *parts])


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)


async def run(plan: Schedule, folder: Path, parts: str, mutant: str) -> Result:
    """One seed."""
    result, begun = Result(plan, parts), time.monotonic()
    system = System(folder, plan.seed, mutant=mutant)
    try:
        async with system.running():
            say(f"  ready after {time.monotonic() - begun:.0f} s")
            if "a" in parts:
                result.faults = await _break(system, plan, folder)
                say(str(result.faults))
            if "b" in parts or "c" in parts:
                await system.without_proxies()
            if "b" in parts:
                result.overload = await overload(system, say)
                say(str(result.overload))
            if "c" in parts:
                result.slow = await slow(system, say)
                say(str(result.slow))
    except Exception as error:
        (folder / "error.txt").write_text(traceback.format_exc())
        result.error = f"{type(error).__name__}: {error}"
    result.seconds = time.monotonic() - begun
    return result


async def _break(system: System, plan: Schedule, folder: Path) -> Faults:
    await fill(system.ports[0], system.plain)
    load = Load(plan.seed, system.signs, system.ports)
    injector = Injector(system, plan, say, load.replay)
    load.start()
    await injector.run()
    back = await recovery(system.ports, system.signs, plan.seed, injector.ended)
    await asyncio.sleep(max(injector.began + plan.seconds - time.monotonic(), 0))
    load.replay()
    await load.stop()
    history = History(load.operations, await system.rows(), system.looks)
    findings = check(history)
    away = sum(each.ended - each.began for each in injector.outages)
    happened = {kind: injector.happened[kind] for kind in KINDS}
    if findings.violations:
        _keep_evidence(history, findings, injector.outages, folder)
    return Faults(findings, len(load.operations), happened, back, load.unanswered, injector.missed, away)


def _keep_evidence(history: History, findings: Findings, outages: Sequence[Outage], folder: Path) -> None:
    (folder / "violations.txt").write_text("".join(f"{each}\n" for each in findings.violations))
    with (folder / "operations.txt").open("w") as file:
        for operation in history.operations:
            file.write(f"{operation.name} signed {operation.signed:.3f}, {history.rows.get(operation.name, 0)} rows\n")
            file.writelines(f"    {attempt}\n" for attempt in operation.attempts)
    (folder / "outages.txt").write_text("\n".join(map(str, outages)))
    for violation in findings.violations[:_SHOWN]:
        say(f"  {violation}")


async def run_all(root: Path, seeds: Sequence[int], parts: str, mutant: str, *, keep: bool) -> list[Result]:
    """Every seed, one after the other."""
    results: list[Result] = []
    for seed in seeds:
        plan, folder = schedule(seed), root / f"{seed}"
        folder.mkdir()
        folder.chmod(0o755)
        say(str(plan) if "a" in parts else f"seed {seed}")
        results.append(await run(plan, folder, parts, mutant))
        if results[-1].sound and not keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            say(f"  {results[-1].error or ''} evidence in {folder}; again with: make chaos-gateway SEEDS={seed}")
    return results


def report(results: Sequence[Result]) -> int:
    """The table, the bars, the JSON line; the exit status."""
    say("\n".join(["", *map(str, results), ""]))
    made = Report("chaos-gateway")
    _report_faults(made, results)
    _report_overload(made, [each.overload for each in results if each.overload is not None])
    _report_slow(made, [each.slow for each in results if each.slow is not None])
    failed = sum(result.error is not None for result in results)
    made.bar("runs_not_judged", failed, 0, better="lower", unit="runs", n=len(results))
    return made.finish()


def _report_faults(made: Report, results: Sequence[Result]) -> None:
    found = [each.faults for each in results if each.faults is not None]
    if not found:
        return
    for each in found:
        for missed in (*each.missed, *each.unanswered):
            say(f"  missed {missed}")
    operations = sum(each.operations for each in found)
    for what in counted(()):
        value = sum(each.findings.count(what) for each in found)
        made.bar(what.replace("-", "_"), value, 0, better="lower", unit="violations", n=operations)
    unanswered = sum(len(each.unanswered) for each in found)
    made.bar("unanswered", unanswered, 0, better="lower", unit="keyed operations in the end", n=operations)
    back = [each.recovery for each in found]
    made.bar(
        "recovery", max(back), RECOVERY_SECONDS, better="lower", unit="s after the faults", n=len(back), spread=back
    )
    for kind in KINDS:
        wanted = planned([each.schedule for each in results if "a" in each.parts], kind)
        happened = sum(each.happened.get(kind, 0) for each in found)
        made.bar(f"faults_{kind}", happened, wanted, better="higher", unit="planned by the seeds", n=len(found))
    for name in ("replays", "marked", "broken", "retries"):
        # What never happened was not judged.
        value = sum(getattr(each.findings, name) for each in found)
        made.bar(f"seen_{name}", value, len(found), better="higher", unit="so many runs", n=operations)


def _report_overload(made: Report, found: Sequence[Overload]) -> None:
    if not found:
        return
    shares = [each.share for each in found]
    made.bar(
        "goodput_share", min(shares), GOODPUT_SHARE, better="higher", unit="of the maximum at three times of it",
        n=sum(each.offered for each in found), spread=shares,
    )  # fmt: skip
    for probe in ("health", "livez", "sign-in"):
        ratios = [each.probes[probe].ratio for each in found]
        made.bar(
            f"{probe.replace('-', '_')}_slower", max(ratios), SLOWER, better="lower", unit="x p99 without load",
            n=sum(each.probes[probe].n for each in found), spread=ratios,
        )  # fmt: skip
    failed = sum(probe.failed for each in found for probe in each.probes.values())
    made.bar("probes_refused", failed, 0, better="lower", unit="probes under overload", n=len(found))
    wrong = sum(each.wrong for each in found)
    refused = sum(each.refused for each in found)
    made.bar("wrong_refusals", wrong, 0, better="lower", unit="other than 503 overloaded and 429", n=refused)


def _report_slow(made: Report, found: Sequence[Slow]) -> None:
    if not found:
        return
    ratios = [each.ratio for each in found]
    n = sum(each.n for each in found)
    made.bar(
        "honest_slower", max(ratios), SLOWER, better="lower", unit="x p99 without slow clients", n=n, spread=ratios
    )
    made.bar("honest_refused", sum(each.failed for each in found), 0, better="lower", unit="honest requests", n=n)
    held = [each.held for each in found]
    made.bar("slow_connections", min(held), 500, better="higher", unit="held open at a time", n=len(found), spread=held)


def parts_of(text: str) -> str:
    """``a,b`` as letters; raises ``ValueError``."""
    found = text.split(",")
    if not set(found) <= set(PARTS):
        raise ValueError(f"parts are {', '.join(PARTS)}")
    return "".join(found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos-gateway", description=__doc__)
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("1-5"), help="such as 7 or 1-5 (default: 1-5)")
    parser.add_argument(
        "--part", type=parts_of, default="a,b,c", help="a faults, b overload, c slow clients (default: a,b,c)"
    )
    parser.add_argument(
        "--mutant", choices=sorted(MUTANTS), default="", help="a platform that is wrong, to see it found"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder of a sound run, too")
    return parser.parse_args()


def main() -> int:
    """Run and report; 1 when a bar does not hold."""
    chosen = _options()
    return run_in_folder(
        lambda root: uvloop.run(run_all(root, chosen.seeds, chosen.part, chosen.mutant, keep=chosen.keep)),
        report,
        keep=chosen.keep,
    )


if __name__ == "__main__":
    sys.exit(main())
