"""The plugin's own promises: a real server, apart databases, a frozen clock, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import asyncpg
import psutil
import pytest

from shared import clock
from shared.auth import Principal
from shared.clock import FixedClock
from shared.settings import Settings
from shared.testing.server import RUN_VARIABLE, TestServer, new_run

ROOT = Path(__file__).parents[3]


async def _value(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_postgres_is_the_wheels_version_18(postgres: str) -> None:
    assert str(await _value(postgres, "SHOW server_version")).startswith("18.")
    assert await _value(postgres, "SELECT current_database()") != "postgres"


async def test_settings_point_at_the_workers_database(settings: Settings, postgres: str) -> None:
    assert settings.environment == "test"
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == postgres
    assert settings.home.is_dir()


async def test_an_empty_database_has_no_schema_of_ours(empty_database: str, postgres: str) -> None:
    assert await _value(empty_database, "SELECT count(*) FROM pg_namespace WHERE nspname = 'extensions'") == 0
    assert await _value(postgres, "SELECT count(*) FROM pg_namespace WHERE nspname = 'extensions'") == 1


async def test_a_fresh_database_is_migrated_and_apart(fresh_database: str, postgres: str) -> None:
    await _value(fresh_database, "CREATE TABLE public.only_here ()")
    assert await _value(postgres, "SELECT to_regclass('public.only_here')") is None
    assert await _value(fresh_database, "SELECT count(*) FROM pg_namespace WHERE nspname = 'extensions'") == 1


def test_principals_belong_to_the_tests_organisation(
    principal: Callable[..., Principal], organization_id: UUID
) -> None:
    caller = principal("contacts:read", actor_type="api_key")
    assert caller.organization_id == organization_id
    assert caller.scopes == {"contacts:read"}
    assert caller.actor_type == "api_key"


async def test_the_frozen_clock_reaches_async_tests(frozen_clock: FixedClock) -> None:
    before = clock.now()
    assert before == frozen_clock.moment
    frozen_clock.advance(hours=1)
    assert (clock.now() - before).total_seconds() == 3600


def test_the_clock_runs_again_afterwards() -> None:
    assert clock.now().timestamp() == pytest.approx(time.time(), abs=60)


_INNER = """
import asyncio, asyncpg, os, pathlib, time
def test_inner(postgres_server):
    pathlib.Path(os.environ["REPORT"]).write_text(f"{postgres_server.folder}\\n{postgres_server.dsn}")
    time.sleep(float(os.environ["LINGER"]))
"""


@pytest.fixture
def inner_run(tmp_path: Path) -> Callable[[float], tuple[subprocess.Popen[bytes], Path]]:
    """Starts another pytest with a test that uses the server; returns it and the server's folder."""

    def start(linger: float) -> tuple[subprocess.Popen[bytes], Path]:
        test_file = tmp_path / "test_inner.py"
        test_file.write_text(_INNER)
        report = tmp_path / "report"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        process = subprocess.Popen(
            [
                sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis",
                "-p", "no:hypothesispytest", "-p", "shared.testing.plugin",
                "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), str(test_file),
            ],
            cwd=ROOT, env={**environment, "REPORT": str(report), "LINGER": str(linger)}, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        _until(lambda: report.exists() and "\n" in report.read_text())
        return process, Path(report.read_text().splitlines()[0])

    return start


def _until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


def _servers_of(folder: Path) -> list[int]:
    return [
        p.pid
        for p in psutil.process_iter(["cmdline"])
        if any(str(folder) in argument for argument in p.info["cmdline"] or ())
    ]


def test_a_run_that_ends_leaves_nothing(
    inner_run: Callable[[float], tuple[subprocess.Popen[bytes], Path]],
) -> None:
    process, folder = inner_run(0)
    assert process.wait(30) == 0
    assert not folder.exists()
    assert _servers_of(folder) == []
    assert list(folder.parent.glob(f"{folder.name}*")) == []


def test_a_killed_run_leaves_no_process(
    inner_run: Callable[[float], tuple[subprocess.Popen[bytes], Path]],
) -> None:
    process, folder = inner_run(60)
    assert _servers_of(folder)
    process.kill()
    process.wait()
    _until(lambda: not _servers_of(folder) and not folder.exists())


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_a_killed_guard_takes_the_server_with_it(
    inner_run: Callable[[float], tuple[subprocess.Popen[bytes], Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN_VARIABLE, os.environ[RUN_VARIABLE])
    process, folder = inner_run(60)
    os.kill(int((folder / "guard.pid").read_text()), signal.SIGKILL)
    _until(lambda: not _servers_of(folder))
    process.kill()
    process.wait()
    # The folder stays until the next run sweeps it; that is the run's promise too.
    sweeper = new_run()
    assert not folder.exists()
    assert not sweeper.folder.exists()


def test_workers_of_a_run_share_the_server(postgres_server: TestServer) -> None:
    assert TestServer(postgres_server.folder, 0).dsn == postgres_server.dsn
