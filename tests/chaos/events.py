"""``make chaos-events SEEDS=1-10``: events lose nothing while everything that carries them is killed.

For each seed and bus: a platform of separate processes with a real PostgreSQL and a real broker, clients that
write, the seed's faults; then the history is checked. One seed repeats a failure: ``SEEDS=7 make chaos-events``.
"""

import argparse
import asyncio
import shutil
import sys
import time
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx

from shared.ids import new_id
from tests.bench.report import Report, require_durable
from tests.chaos import collect, witness
from tests.chaos.faults import Account, Injector
from tests.chaos.folder import run_in_folder
from tests.chaos.history import Kind, Violation, Write, check, counted
from tests.chaos.load import Load, Organization
from tests.chaos.platform import Platform, ProxiedBroker, broker_in
from tests.chaos.schedule import BUSES, PAUSE_SECONDS, BusName, Schedule, points_of, schedule, seeds_of

CREATED_ORGANIZATIONS = 3
DRAIN_SECONDS = 90.0
KILLS_A_RUN = 10
EVENTS_A_RUN = 5_000
"""The bars of the whole (200 and 100,000 over twenty runs), for as many runs as are asked for."""
SCOPES = [f"{each}:{verb}" for each in ("contacts", "deals", "pipelines", "api_keys") for verb in ("read", "write")]
EXTRA_SECONDS = 30.0
_SHOWN = 12
_STEP_SECONDS = 5


@dataclass
class Result:
    """What one seed on one bus came to."""

    schedule: Schedule
    seconds: float = 0.0
    events: int = 0
    writes: dict[str, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    outage_share: list[float] = field(default_factory=list)
    """Acknowledged writes a second while the broker was away, beside those of the rest of the run."""
    error: str | None = None

    @property
    def name(self) -> str:
        return f"{self.schedule.bus}/{self.schedule.seed}"

    @property
    def counts(self) -> dict[Kind, int]:
        return counted(self.violations)

    @property
    def sound(self) -> bool:
        return self.error is None and not self.violations

    def __str__(self) -> str:
        told = " ".join(f"{outcome} {count}" for outcome, count in sorted(self.writes.items()))
        unfired = sorted(set(points_of(self.schedule.bus)) - self.account.fired)
        found = ", ".join(f"{count} {kind}" for kind, count in self.counts.items() if count)
        return (
            f"{'✓' if self.sound else '✗'} {self.name:<11} {self.schedule.profile:<8} {self.seconds:5.0f} s"
            f" {self.events:6,} events {len(self.account.kills):3} kills {len(self.account.pauses)} pauses"
            f"  writes: {told}" + (f"  NOT FIRED: {', '.join(unfired)}" if unfired else "")
            + (f"  VIOLATIONS: {found}" if found else "") + (f"  ERROR: {self.error}" if self.error else "")
        )  # fmt: skip


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)


async def run(plan: Schedule, folder: Path, broker: ProxiedBroker | None, *, events: int) -> Result:
    """One seed on one bus."""
    result, begun = Result(plan), time.monotonic()
    platform = Platform(folder, plan, broker)
    injector = Injector(platform, plan, say)
    try:
        async with platform.running():
            await _require_durable(platform)
            await witness.prepare(platform.settings)
            platform.accompany()
            result.account = injector.account
            async with _kept(platform), _loaded(platform, plan, events) as load:
                await platform.accompanied()
                say(f"    ready after {time.monotonic() - begun:.0f} s")
                await _break(load, injector, result)
                say(f"    quiet after {time.monotonic() - begun:.0f} s")
                await _judge(platform, load, result, folder)
    except Exception as error:
        (folder / "error.txt").write_text(traceback.format_exc())
        result.error = f"{type(error).__name__}: {error}"
    result.seconds = time.monotonic() - begun
    return result


async def _break(load: Load, injector: Injector, result: Result) -> None:
    """Load and faults together, then the end of both."""
    started = time.monotonic()
    loading = asyncio.create_task(load.run())
    await injector.run()
    await asyncio.sleep(max(started + result.schedule.seconds - time.monotonic(), 0))
    healing = asyncio.create_task(injector.heal())  # points that still wait for a pass need the load to go on
    patience = time.monotonic() + EXTRA_SECONDS
    # On a slow machine the load goes on for a while, so that enough passes.
    while not healing.done() or (load.events < EVENTS_A_RUN and time.monotonic() < patience):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    load.stop()
    await loading
    steps = range(int(time.monotonic() - started) // _STEP_SECONDS + 1)
    told = [load.acknowledged_between(started + _STEP_SECONDS * n, started + _STEP_SECONDS * (n + 1)) for n in steps]
    say(f"    acknowledged every {_STEP_SECONDS} s: {' '.join(map(str, told))}")
    for outage in result.account.outages:
        away = load.acknowledged_between(outage.began, outage.ended) / outage.seconds
        other = time.monotonic() - started - outage.seconds
        rest = (len(load.acknowledged) - away * outage.seconds) / other
        result.outage_share.append(away / rest if rest else 0.0)
    with suppress(TimeoutError):
        await asyncio.wait_for(injector.drains(), DRAIN_SECONDS)


async def _judge(platform: Platform, load: Load, result: Result, folder: Path) -> None:
    for outcome in {write.outcome for write in load.writes}:
        result.writes[outcome] = sum(write.outcome == outcome for write in load.writes)
    connection = await asyncpg.connect(platform.dsn)
    try:
        entries = await collect.drained(platform.settings, connection, DRAIN_SECONDS)
        history = await collect.collect(connection, load.writes, entries)
    finally:
        await connection.close()
    history.log_repeats = result.schedule.bus == "kafka"
    result.events = len(history.events)
    result.violations = check(history)
    if result.violations:
        _keep_evidence(folder, result, load.writes)


def _keep_evidence(folder: Path, result: Result, writes: Sequence[Write]) -> None:
    (folder / "violations.txt").write_text("".join(f"{each}\n" for each in result.violations))
    (folder / "writes.txt").write_text("".join(f"{each}\n" for each in writes))
    (folder / "schedule.txt").write_text(f"{result.schedule}\n\nmissed: {result.account.missed}\n")
    for violation in result.violations[:_SHOWN]:
        say(f"    {violation}")


@asynccontextmanager
async def _kept(platform: Platform) -> AsyncIterator[None]:
    keeping = asyncio.create_task(platform.keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])


@asynccontextmanager
async def _loaded(platform: Platform, plan: Schedule, events: int) -> AsyncIterator[Load]:
    organizations = [Organization(UUID(each["id"]), each["api_key"]) for each in platform.demo["organizations"]]
    async with httpx.AsyncClient(base_url=platform.base_url, timeout=20, trust_env=False) as client:
        organizations += [await _organization(client, number) for number in range(CREATED_ORGANIZATIONS)]
    load = Load(platform.base_url, plan.seed, organizations, events=events, seconds=plan.seconds)
    try:
        await load.prepare()
        yield load
    finally:
        await load.close()


async def _organization(client: httpx.AsyncClient, number: int) -> Organization:
    made = await client.post(
        "/v1/sign-up",
        json={"organization": f"Chaos {number}", "data_region": "eu", "name": "Eris", "email": f"eris{number}@chaos.example",
              "password": f"discord-{new_id()}"},
    )  # fmt: skip
    made.raise_for_status()
    key = await client.post("/v1/api-keys", json={"name": "load", "scopes": SCOPES})
    key.raise_for_status()
    client.cookies.clear()
    return Organization(UUID(made.json()["organization"]["id"]), key.json()["key"])


async def _require_durable(platform: Platform) -> None:
    connection = await asyncpg.connect(platform.dsn)
    try:
        await require_durable(connection)
        # A server that has run for a while has little to recover; this one has just made all its tables.
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def run_all(
    root: Path, seeds: Sequence[int], buses: Sequence[BusName], events: int, *, keep: bool
) -> list[Result]:
    """Every seed on every bus, one after the other."""
    results: list[Result] = []
    for bus in buses:
        async with _broker(root, bus) as broker:
            for seed in seeds:
                plan, folder = schedule(seed, bus), root / f"{bus}-{seed}"
                folder.mkdir()
                say(str(plan))
                results.append(await run(plan, folder, broker, events=events))
                say(str(results[-1]))
                if results[-1].sound and not keep:
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    say(f"    evidence in {folder}; again with: make chaos-events SEEDS={seed} BUS={bus}")
    return results


@asynccontextmanager
async def _broker(root: Path, bus: BusName) -> AsyncIterator[ProxiedBroker | None]:
    if bus == "postgres":
        yield None
        return
    async with broker_in(root / "kafka") as broker:
        yield broker


def report(results: Sequence[Result]) -> int:
    """The table, the bars, the JSON line; the exit status."""
    say("\n".join(["", *map(str, results), ""]))
    for result in results:
        for missed in result.account.missed:
            say(f"  {result.name} missed {missed}")
    made, runs = Report("chaos-events"), len(results)
    kills, events = [len(each.account.kills) for each in results], [each.events for each in results]
    made.bar("sigkills", sum(kills), KILLS_A_RUN * runs, better="higher", unit="kills", n=runs, spread=kills)
    made.bar("events", sum(events), EVENTS_A_RUN * runs, better="higher", unit="events", n=runs, spread=events)
    for name, kinds in _BARS.items():
        value = sum(result.counts[kind] for result in results for kind in kinds)
        made.bar(name, value, 0, better="lower", unit="violations", n=sum(events))
    made.bar("runs_not_judged", sum(each.error is not None for each in results), 0, better="lower", unit="runs", n=runs)
    buses = sorted({each.schedule.bus for each in results})
    fired = {(each.schedule.bus, point) for each in results for point in each.account.fired}
    there = sum(len(points_of(bus)) for bus in buses)
    made.bar("kill_points_fired", len(fired), there, better="higher", unit="points of all buses", n=runs)
    sleepers = [name for each in results for name in each.account.pauses if f"for {PAUSE_SECONDS:g} s" in name]
    if any(each.schedule.profile == "pause" for each in results):
        for part in ("relay", "consumer"):
            slept = sum(f"at {part}." in name for name in sleepers)
            made.bar(f"{part}s_paused", slept, 1, better="higher", unit="times 40 s", n=runs)
    outages = [outage for each in results for outage in each.account.outages]
    if outages:
        ratios = [(outage.drain_seconds or float("1e9")) / outage.seconds for outage in outages]
        made.bar("drain_ratio", max(ratios), 2, better="lower", unit="x outage", n=len(ratios), spread=ratios)
        shares = [share for each in results for share in each.outage_share] or [0.0]
        made.bar(
            "writes_during_outage",
            min(shares),
            0.5,
            better="higher",
            unit="x other writes/s",
            n=len(shares),
            spread=shares,
        )
    return made.finish()


_BARS: dict[str, tuple[Kind, ...]] = {
    "lost": ("lost", "torn", "undrained"),
    "double_effects": ("double",),
    "inversions": ("inversion",),
    "leaked_or_phantom": ("leaked", "phantom"),
}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("1-10"), help="7, 1-10 or 1,4,8-10")
    parser.add_argument("--bus", choices=[*BUSES, "both"], default="both")
    parser.add_argument("--events", type=int, default=int(EVENTS_A_RUN * 1.3), help="to aim at in each run")
    parser.add_argument("--keep", action="store_true", help="keep the folders of sound runs too")
    chosen = parser.parse_args()
    buses = BUSES if chosen.bus == "both" else (chosen.bus,)
    return run_in_folder(
        lambda root: asyncio.run(run_all(root, chosen.seeds, buses, chosen.events, keep=chosen.keep)),
        report,
        keep=chosen.keep,
    )


if __name__ == "__main__":
    sys.exit(main())
