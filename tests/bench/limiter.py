"""``make bench-limiter``: decisions of the gateway's limits beside ``limits`` with async Redis.

Four processes with a lease client each, on one PostgreSQL that keeps its promises, and four with the peer's limiter
on one Redis of Debian's package that keeps nothing on disk; in turn, with the same 10,000 API keys drawn from the
same Zipf spread, by as many tasks in the same kind of loop, under the same quota for each key. Rounds of ours end
with a count: what all processes admitted of a key in its window, beside what the database says. In the end one
process alone shows what a call of a warm key costs in CPU in all of the gateway's quota stage (PROFILE=1 says where).
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg

from cli.migrate import migrate
from cli.progress import step
from deploy.debian import ProgramError
from deploy.redis import Redis
from shared.settings import Settings
from tests.bench.events_system import durable_postgres
from tests.bench.limiter_load import drawn_share, hot_keys
from tests.bench.limiter_path import PATH_MICROSECONDS, measure_path
from tests.bench.limiter_rounds import Load, Round, Rounds, limited_organization, say
from tests.bench.report import Report, require_durable

TIMES_THE_PEER, STRETCH = 25.0, 50.0
HOT_LOCAL = 0.999
P99_MICROSECONDS = 20.0
_SHOWN = 10
_UNLIMITED = 10**12


async def _rounds(settings: Settings, load: Load, count: int, redis: Redis, pid: int) -> list[tuple[Round, Round]]:
    """Pairs of rounds, ours and the peer's, which goes first in every other pair."""
    assert settings.database_url is not None
    assert redis.pid is not None
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        await require_durable(connection)
        rounds = Rounds(connection, settings, load, redis.socket, {"postgres": pid, "redis": redis.pid})
        pairs = []
        for number in range(count):
            done: dict[str, Round] = {}
            for name in ("ours", "peer") if number % 2 == 0 else ("peer", "ours"):
                done[name] = await (rounds.ours() if name == "ours" else rounds.peer())
                for line in done[name].as_text():
                    say(line)
            pairs.append((done["ours"], done["peer"]))
        return pairs
    finally:
        await connection.close()


def _report(report: Report, pairs: Sequence[tuple[Round, Round]]) -> None:
    ours, peers = [mine for mine, _ in pairs], [theirs for _, theirs in pairs]
    ratios = [mine.rate / theirs.rate for mine, theirs in pairs]
    reached = "reached" if statistics.median(ratios) >= STRETCH else "not reached"
    say(f"the stretch of {STRETCH:g} times the peer's rate is {reached}")
    report.bar(
        "times_limits_with_redis", statistics.median(ratios), TIMES_THE_PEER, better="higher", unit="x the peer's rate",
        n=len(ratios), spread=(min(ratios), max(ratios)), peer="limits with async Redis, decisions/s",
        peer_value=statistics.median(each.rate for each in peers),
    )  # fmt: skip
    _range(report, "hot_local_share", [each.hot_local for each in ours], HOT_LOCAL, "higher", "of hot keys' decisions",
           sum(len(each.hot_times) for each in ours))  # fmt: skip
    _range(report, "decision_p99", [each.all_times.microseconds(0.99) for each in ours], P99_MICROSECONDS, "lower", "µs",
           sum(each.decisions for each in ours))  # fmt: skip
    wrong = [text for each in ours for text in each.violations]
    for text in wrong[:_SHOWN]:
        say(text)
    checked = sum(each.checked for each in ours)
    report.bar("exactness_violations", len(wrong), 0, better="lower", unit="of keys in their window", n=checked)
    exhausted = [float(each.exhausted) for each in ours]
    report.median("exhausted_keys", exhausted, 1, better="higher", unit="keys, so that exactness was at stake")


def _range(report: Report, name: str, values: Sequence[float], bar: float, better: Any, unit: str, n: int) -> None:
    spread = (min(values), max(values))
    report.bar(name, statistics.median(values), bar, better=better, unit=unit, n=n, spread=spread)


async def _path(report: Report, settings: Settings, calls: int) -> None:
    """The CPU of one process that does nothing but let calls of one key pass."""
    assert settings.database_url is not None
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        organization = await limited_organization(connection, "minute", _UNLIMITED)
    finally:
        await connection.close()
    with step(f"CPU of {calls:,} calls of a warm key"):
        found = await measure_path(settings, organization, calls)
    report.bar(
        "warm_key_cpu", statistics.median(found), PATH_MICROSECONDS, better="lower", unit="µs of CPU a call",
        n=calls, spread=(min(found), max(found)),
    )  # fmt: skip


def _options() -> Any:
    parser = argparse.ArgumentParser(prog="make bench-limiter", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=3, help="pairs of rounds, ours and the peer's; 0: none (%(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=10, help="what is measured of each round (%(default)s)")
    parser.add_argument("--warm-seconds", type=float, default=2, help="the same load before that (%(default)s)")
    parser.add_argument("--keys", type=int, default=10_000, help="API keys (%(default)s)")
    parser.add_argument("--skew", type=float, default=1.0, help="of the Zipf spread (%(default)s)")
    parser.add_argument("--tasks", type=int, default=64, help="tasks in each process (%(default)s)")
    parser.add_argument("--quota", type=int, default=50_000, help="of each key in a window (%(default)s)")
    parser.add_argument("--window", choices=["minute", "hour"], default="minute", help="(%(default)s)")
    parser.add_argument("--path-calls", type=int, default=200_000, help="calls of a warm key (%(default)s)")
    return parser.parse_args()


def main() -> int:
    """Measure and report; 1 when a bar does not hold."""
    options = _options()
    load = Load(**{name: getattr(options, name) for name in Load.__dataclass_fields__})
    report = Report("limiter")
    hot = hot_keys(load.keys)
    say(
        f"hot are the {hot:,} most frequent of {load.keys:,} keys, {drawn_share(load.keys, load.skew, hot):.0%} of calls"
    )
    with tempfile.TemporaryDirectory(prefix="guardian-bench-limiter-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        redis = Redis(folder / "redis")
        try:
            redis.start()
        except ProgramError as error:
            sys.exit(f"{error}\n{error.log}")
        try:
            with durable_postgres(folder) as (settings, pid):
                asyncio.run(migrate(settings))
                if pairs := asyncio.run(_rounds(settings, load, options.rounds, redis, pid)):
                    _report(report, pairs)
                asyncio.run(_path(report, settings, options.path_calls))
        finally:
            redis.stop()
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
