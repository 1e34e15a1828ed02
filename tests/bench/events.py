"""``make bench-events``: how fast events become effects, on both buses, beside peers that do the same.

100,000 contact events of 200 organisations with a Zipf spread wait in the CRM's outbox. The relay and the
audit log's consumer, a process each, drain them until the last audit entry is committed: through PostgreSQL
beside pgqueuer, and through Kafka beside FastStream. Peers take smaller rounds that alternate with ours of
the same size. Then the platform runs as ``guardian up --split``, for its latency, memory and start.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from cli.home import changed
from cli.migrate import migrate
from cli.progress import step
from deploy.kafka import Broker
from shared.settings import Settings
from tests.bench import events_split
from tests.bench.events_contenders import Contender, FastStream, FastStreamBatch, Ours, PgQueuer, prepare_pgqueuer
from tests.bench.events_load import Organizations
from tests.bench.events_system import Drain, Entries, durable_postgres
from tests.bench.report import Report, require_durable

PARTS = ("postgres", "kafka", "split", "split-kafka")
BARS = {"postgres": 5_000.0, "kafka": 6_000.0}
TIMES_THE_PEER = 2.0


def _say(text: str) -> None:
    print(f"bench-events: {text}", file=sys.stderr, flush=True)


async def _round(contender: Contender, organizations: Organizations, count: int, bus: str) -> Drain:
    title = f"{contender.name} through {bus}"
    with step(f"Draining {count:,} events, {title}") as progress:
        drain = await contender.round(organizations, count, lambda done: progress.update(done, count))
    _say(f"{title}: {drain.rate:,.0f}/s; CPU per event in µs: {drain.costs()}")
    return drain


def _report(report: Report, bus: str, runs: Sequence[Drain], pairs: Sequence[tuple[Drain, Drain]], peer: str) -> None:
    if runs:
        report.median(f"{bus}_events_per_s", [run.rate for run in runs], BARS[bus], better="higher", unit="events/s")
    if pairs:
        ratios = [mine.rate / theirs.rate for mine, theirs in pairs]
        report.bar(
            f"{bus}_times_{peer}", statistics.median(ratios), TIMES_THE_PEER, better="higher", unit="x the peer's rate",
            n=len(ratios), spread=(min(ratios), max(ratios)), peer=f"{peer}, events/s",
            peer_value=statistics.median([theirs.rate for _, theirs in pairs]),
        )  # fmt: skip


class Drains:
    """The drains of one bus."""

    def __init__(self, settings: Settings, options: argparse.Namespace, others: dict[str, int]) -> None:
        self._settings = settings
        self._options = options
        self._others = others
        self._organizations = Organizations()

    async def run(self, report: Report, bus: str) -> None:
        """Full runs, then rounds that alternate with the peer's."""
        assert self._settings.database_url is not None
        connection = await asyncpg.connect(self._settings.database_url.get_secret_value())
        try:
            await require_durable(connection)
            entries = Entries(connection)
            ours = Ours(self._settings, entries, self._others)
            runs = [
                await _round(ours, self._organizations, self._options.events, bus) for _ in range(self._options.runs)
            ]
            if bus == "postgres":
                await prepare_pgqueuer(connection)
                peer: Contender = PgQueuer(self._settings, entries, self._others)
            else:
                peer = FastStream(self._settings, entries, self._others)
            pairs = [await self._pair(ours, peer, bus, number) for number in range(self._options.rounds)]
            _report(report, bus, runs, pairs, peer.name)
            if bus == "kafka" and pairs:
                batched = FastStreamBatch(self._settings, entries, self._others)
                beside = await _round(batched, self._organizations, self._options.round_events, bus)
                _say(f"beside it, without a bar: {batched.name}: {beside.rate:,.0f}/s")
        finally:
            await connection.close()

    async def _pair(self, ours: Contender, peer: Contender, bus: str, number: int) -> tuple[Drain, Drain]:
        order = [ours, peer] if number % 2 == 0 else [peer, ours]
        size = {ours.name: self._options.round_events, peer.name: self._options.peer_events}
        done = {each.name: await _round(each, self._organizations, size[each.name], bus) for each in order}
        return done[ours.name], done[peer.name]


@contextmanager
def _broker(folder: Path) -> Iterator[tuple[str, int]]:
    broker = Broker(folder / "kafka")
    with step("Starting a Kafka broker"):
        broker.start()
    process = broker.running()
    assert process is not None
    try:
        yield broker.bootstrap_servers, process.pid
    finally:
        broker.stop()


def _drain(report: Report, options: argparse.Namespace, folder: Path, bus: str) -> None:
    with ExitStack() as stack:
        settings, pid = stack.enter_context(durable_postgres(folder / bus))
        others = {"postgres": pid}
        if bus == "kafka":
            servers, others["kafka"] = stack.enter_context(_broker(folder / bus))
            settings = changed(settings, kafka_bootstrap_servers=servers)
        asyncio.run(migrate(settings))
        asyncio.run(Drains(settings, options, others).run(report, bus))


def _split(report: Report, options: argparse.Namespace, folder: Path, bus: str) -> None:
    with ExitStack() as stack:
        servers = stack.enter_context(_broker(folder / f"split-{bus}"))[0] if bus == "kafka" else None
        events_split.measure(report, folder / f"split-{bus}", bus, servers, requests=options.requests)


def _options() -> Any:
    parser = argparse.ArgumentParser(prog="make bench-events", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="this part alone (may be repeated)")
    parser.add_argument("--events", type=int, default=100_000, help="events of a full run")
    parser.add_argument("--runs", type=int, default=3, help="full runs per bus")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of rounds with the peer")
    parser.add_argument("--round-events", type=int, default=25_000, help="events of our round in a pair")
    parser.add_argument("--peer-events", type=int, default=10_000, help="events of the peer's round in a pair")
    parser.add_argument("--requests", type=int, default=300, help="requests of the latency measurement")
    return parser.parse_args()


def main() -> int:
    """Measure and report; 1 when a bar does not hold."""
    options = _options()
    report = Report("events")
    with tempfile.TemporaryDirectory(prefix="guardian-bench-events-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in options.only or PARTS:
            if part.startswith("split"):
                _split(report, options, folder, "kafka" if part == "split-kafka" else "postgres")
            else:
                _drain(report, options, folder, part)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
