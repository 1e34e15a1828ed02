"""Processes that are kept running, those that give up at once, and a platform that is told twice to stop."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from cli.processes import Kept
from cli.start import bind
from deploy.postgres import free_port
from shared.settings import DEVELOPMENT_SECRET
from tests.cli.service import ROOT
from tests.e2e.platform import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
CHILD = """
import http.server, os, pathlib, sys, time
starts = pathlib.Path("starts")
starts.write_text(f"{starts.read_text() if starts.exists() else ''}{os.getpid()} ")
if "refuses" in sys.argv:
    sys.exit("it cannot start")
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200 if "ready" in sys.argv else 503)
        self.send_header("Connection", "close")
        self.end_headers()
    def do_POST(self):
        os._exit(1)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class _Child:
    def __init__(self, folder: Path, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._starts = folder / "starts"
        (folder / "child.py").write_text(CHILD)
        self.listener: socket.socket = bind("127.0.0.1", 0)
        self.kept = Kept("child", ["child", str(self.port), *arguments], os.environ, self.listener, self.url)

    def pids(self) -> list[int]:
        return [int(each) for each in self._starts.read_text().split()] if self._starts.exists() else []

    async def until_started(self, times: int) -> int:
        async with asyncio.timeout(20):
            while len(self.pids()) < times:  # noqa: ASYNC110 (another process)
                await asyncio.sleep(0.02)
        return self.pids()[-1]


@contextlib.asynccontextmanager
async def _kept(child: _Child) -> AsyncIterator[asyncio.Task[bool]]:
    keeping = asyncio.create_task(child.kept.keep())
    try:
        yield keeping
    finally:
        await child.kept.stop(asyncio.Event())
        await keeping
        child.listener.close()


async def test_one_that_gives_up_before_it_was_ready_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    child = _Child(tmp_path, "refuses")
    async with _kept(child) as keeping:
        assert await asyncio.wait_for(keeping, 20) is False
    assert len(child.pids()) == 1


async def test_one_that_is_killed_before_it_was_ready_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    child = _Child(tmp_path)
    async with _kept(child) as keeping:
        os.kill(await child.until_started(1), signal.SIGKILL)
        await child.until_started(2)
    assert keeping.result() is True


async def test_one_that_has_been_ready_is_started_again_however_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    child = _Child(tmp_path, "ready")
    async with _kept(child) as keeping, httpx.AsyncClient() as client:
        await child.until_started(1)
        await asyncio.sleep(1)
        with contextlib.suppress(httpx.TransportError):
            await client.post(child.url)
        await child.until_started(2)
        assert not keeping.done()


def _environment(home: Path, dsn: str, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GUARDIAN_")}
    # Roles belong to the whole server: a secret of this home's own would lock the other tests out of it.
    if dsn:
        home.mkdir()
        (home / "secret.key").write_text(DEVELOPMENT_SECRET)
    ours = {"GUARDIAN_HOME": str(home), "GUARDIAN_PORT": str(free_port()), "DATABASE_URL": dsn}
    return {**kept, **ours, "GUARDIAN_DEMO": "false", **more}


def test_a_platform_apart_whose_service_cannot_start_does_not_start(fresh_database: str, tmp_path: Path) -> None:
    environment = _environment(tmp_path / "home", fresh_database, GUARDIAN_IDENTITY_SESSION_DAYS="0")
    command = [sys.executable, "-m", "cli.main", "up", "--split"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "guardian cannot start: GUARDIAN_IDENTITY_SESSION_DAYS: Input should be greater than" in done.stderr
    assert "Traceback" not in done.stderr
    assert "identity ended before it was ready, and has said why above." in done.stderr.splitlines()[-1]
    assert not (tmp_path / "home" / "running.json").exists()


@pytest.mark.parametrize("arguments", [(), ("--split",)], ids=["one process", "apart"])
def test_who_is_asked_twice_to_stop_says_one_line(
    fresh_database: str, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    environment = _environment(tmp_path / "home", fresh_database, GUARDIAN_DRAIN_SECONDS="5")
    url = f"http://127.0.0.1:{environment['GUARDIAN_PORT']}"
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "cli.main", "up", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: "is running at" in (tmp_path / "log").read_text(), 60)
        with socket.create_connection(("127.0.0.1", int(environment["GUARDIAN_PORT"]))) as slow:
            slow.sendall(b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            assert httpx.get(f"{url}/livez").status_code == 200
            before = len((tmp_path / "log").read_text())
            process.terminate()
            wait_for(lambda: httpx.get(f"{url}/readyz").status_code == 503)
            process.terminate()
            assert process.wait(timeout=15) == 0
    finally:
        process.kill()
        process.wait()
    said = (tmp_path / "log").read_text()[before:].strip().splitlines()
    assert len(said) == 2, said
    assert "stopping_at_once" in said[0]
    assert said[1].startswith("Stopped.")


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (("up",), "KAFKA_BOOTSTRAP_SERVERS", "kafka://a:1"),
        (("up", "--split"), "KAFKA_SECURITY_PROTOCOL", "SASL_SSL"),
        (("run", "crm"), "KAFKA_BOOTSTRAP_SERVERS", "kafka://a:1"),
        (("events", "lag"), "KAFKA_SECURITY_PROTOCOL", "SASL_SSL"),
        (("migrate",), "KAFKA_BOOTSTRAP_SERVERS", "kafka://a:1"),
    ],
)
def test_wrong_settings_of_kafka_are_refused_before_anything_is_made(
    arguments: tuple[str, ...], name: str, value: str, tmp_path: Path
) -> None:
    environment = _environment(tmp_path / "home", "") | {name: value}
    del environment["DATABASE_URL"]
    command = [sys.executable, "-m", "cli.main", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    (said,) = (done.stdout + done.stderr).splitlines()
    assert name in said
    assert not (tmp_path / "home").exists()
