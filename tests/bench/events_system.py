"""Where the event bench runs: PostgreSQL that keeps its promises, processes, and how a drain is timed.

PostgreSQL is looked at as its administrator. The end of a drain is the commit of the last audit entry by
PostgreSQL's own clock (``track_commit_timestamp``); while it runs only the statistics are read, four times
a second. CPU is each process's own user and system time.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from pydantic import SecretStr

from cli.home import changed, with_secret
from cli.postgres import EmbeddedPostgres
from deploy.postgres import free_port
from shared.settings import Settings

ENTRIES = "audit.audit_logs_enhanced"
_LOOK_SECONDS = 0.25
_STALL_SECONDS = 60.0
_STOP_SECONDS = 20.0
_INSERTED = """
SELECT coalesce(sum(n_tup_ins), 0)::bigint FROM pg_stat_user_tables
WHERE schemaname = 'audit' AND relname LIKE 'audit_logs_enhanced%'
"""
_COMMITS = f"SELECT max(pg_xact_commit_timestamp(xmin)) FROM {ENTRIES}"
Progress = Callable[[int], None]


@contextmanager
def durable_postgres(folder: Path) -> Iterator[tuple[Settings, int]]:
    """A PostgreSQL of the platform's own kind in ``folder``: settings that lead to it, and its process id."""
    home = folder / "home"
    with EmbeddedPostgres(home) as postgres:
        asyncio.run(_execute(postgres.dsn, "ALTER SYSTEM SET track_commit_timestamp = on"))
        postgres.stop()
        postgres.start()
        settings = with_secret(Settings(home=home, log_level="WARNING", kafka_bootstrap_servers=None))
        assert postgres.pid is not None
        yield changed(settings, database_url=SecretStr(postgres.dsn)), postgres.pid


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """What a process of the bench inherits; nothing of the caller's own platform."""
    assert settings.database_url is not None
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GUARDIAN_", "KAFKA_"))}
    if settings.kafka_bootstrap_servers is not None:
        kept["KAFKA_BOOTSTRAP_SERVERS"] = settings.kafka_bootstrap_servers
    return kept | {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "GUARDIAN_SECRET_KEY": settings.secret_key.get_secret_value(),
        "GUARDIAN_HOME": str(settings.home),
        "GUARDIAN_LOG_LEVEL": "WARNING",
        **more,
    }


class Process:
    """A process of the bench: ``python -m <arguments>``."""

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._port = free_port()
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env={**environment, "GUARDIAN_PORT": str(self._port)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def pause(self) -> None:
        """Stop it where it stands."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Terminate it and wait; killed when it takes too long."""
        self.go_on()
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Clocks:
    """CPU seconds of named processes (and of all below them) between two looks."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._before = self._look()

    def spent(self) -> dict[str, float]:
        """Since it was made, by name."""
        return {name: after - self._before[name] for name, after in self._look().items()}

    def _look(self) -> dict[str, float]:
        return {name: _cpu_seconds(pid) for name, pid in self._pids.items()}


def _cpu_seconds(pid: int) -> float:
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for each in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


@dataclass(frozen=True)
class Drain:
    """One drain: how many events, and seconds from the release to the commit of the last entry."""

    count: int
    seconds: float
    cpu: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.count / self.seconds

    def costs(self) -> str:
        """Microseconds of CPU per event, by process."""
        parts = {name: spent / self.count * 1e6 for name, spent in self.cpu.items()}
        return ", ".join(f"{name} {part:.0f}" for name, part in parts.items()) + f", together {sum(parts.values()):.0f}"


class Entries:
    """The audit log of the bench, and what else a drain writes."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.connection = connection
        self._before = 0

    async def clear(self) -> None:
        """Empty what a drain writes, so that every round begins alike."""
        await self.connection.execute(f"TRUNCATE crm.outbox, {ENTRIES}, audit.inbox, bus.log")
        await asyncio.sleep(1.2)  # the statistics of what was before arrive within a second
        self._before = await self._inserted()

    async def settle(self) -> None:
        """Write out what is dirty, so that no round pays for the one before."""
        await self.connection.execute("CHECKPOINT")
        await asyncio.sleep(0.5)

    async def arrive(
        self, count: int, release: Callable[[], Any], pids: Mapping[str, int], progress: Progress
    ) -> Drain:
        """Let a drain go and wait until ``count`` entries are committed."""
        clocks, since = Clocks(pids), datetime.now(UTC)
        if asyncio.iscoroutine(released := release()):
            await released
        seen, moved = 0, time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = await self._inserted() - self._before
            if now != seen:
                seen, moved = now, time.monotonic()
            progress(seen)
            if seen >= count and await self.count() >= count:
                break
            if time.monotonic() - moved > _STALL_SECONDS:
                raise SystemExit(f"nothing moved for {_STALL_SECONDS:.0f} s: {await self.count()} of {count} entries")
        spent = clocks.spent()
        if (found := await self.count()) != count:
            raise SystemExit(f"{found} entries of {count} events")
        ended = await self.connection.fetchval(_COMMITS)
        return Drain(count, (ended - since) / timedelta(seconds=1), spent)

    async def count(self) -> int:
        """How many entries are committed."""
        count: int = await self.connection.fetchval(f"SELECT count(*) FROM {ENTRIES}")
        return count

    async def _inserted(self) -> int:
        value: int = await self.connection.fetchval(_INSERTED)
        return value
