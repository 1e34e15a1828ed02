"""The test run's server as seen by the tests: started by whoever needs it first, shared by all workers."""

import asyncio
import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil

from shared.testing.guard import FAILED, READY

T = TypeVar("T")
RUN_VARIABLE = "PYTEST_GUARDIAN_RUN"
_PREFIX = "guardian-test-"
_START_SECONDS = 60


class GuardedServer:
    """A server of the run. Making one is free; it starts with the first ``address``, whichever worker asks."""

    kind = ""
    start_seconds = 60

    def __init__(self, folder: Path, pytest_pid: int) -> None:
        self.folder = folder
        self._pytest_pid = pytest_pid
        self._address: str | None = None

    @property
    def address(self) -> str:
        """Where it is reached."""
        if self._address is None:
            with self.lock("start"):
                if not (self.folder / "guard.pid").exists():
                    self._start_guard()
            self._address = self._wait()
        return self._address

    def _start_guard(self) -> None:
        self.folder.mkdir(mode=0o755, exist_ok=True)
        self.folder.chmod(0o755)
        with (self.folder / "guard.log").open("wb") as log:
            guard = subprocess.Popen(
                [sys.executable, "-m", "shared.testing.guard", self.kind, str(self.folder), str(self._pytest_pid)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        guard.returncode = 0  # it outlives us on purpose; keeps Popen from warning about that
        (self.folder / "guard.pid").write_text(str(guard.pid))

    def _wait(self) -> str:
        deadline = time.monotonic() + self.start_seconds
        while time.monotonic() < deadline:
            if (self.folder / READY).exists():
                return (self.folder / READY).read_text()
            if (self.folder / FAILED).exists():
                raise RuntimeError((self.folder / FAILED).read_text())
            time.sleep(0.02)
        log = (self.folder / "guard.log").read_text(errors="replace")
        raise RuntimeError(f"the test server did not start within {self.start_seconds} s: {log}")

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Exclusive among the run's workers."""
        with Path(f"{self.folder}.{name}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def stop(self) -> None:
        """End the server and wait until nothing of it is left. Called once, by the process that leads the run."""
        pid_file = self.folder / "guard.pid"
        if pid_file.exists():
            try:
                guard = psutil.Process(int(pid_file.read_text()))
                guard.send_signal(signal.SIGTERM)
                guard.wait(timeout=20)
            except psutil.NoSuchProcess:
                shutil.rmtree(self.folder, ignore_errors=True)
        for lock in self.folder.parent.glob(f"{self.folder.name}.*.lock"):
            lock.unlink(missing_ok=True)


class TestServer(GuardedServer):
    """The run's PostgreSQL."""

    __test__ = False
    kind = "postgres"

    @property
    def dsn(self) -> str:
        """The administrator's DSN of the maintenance database."""
        return self.address

    def dsn_of(self, database: str) -> str:
        """The administrator's DSN of ``database``."""
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{database}"))

    def create_database(self, name: str, *, template: str = "template0") -> str:
        """Create a database (as a copy of ``template``) and return its administrator's DSN."""
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        return self.dsn_of(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def ensure_template(self, name: str, build: Callable[[str], Awaitable[None]]) -> None:
        """Create the database ``name`` with ``build(dsn)`` unless a worker of this run has done so already."""
        done = self.folder / f"{name}.done"
        with self.lock("template"):
            if not done.exists():
                self.drop_database(name)
                dsn = self.create_database(name)
                run(lambda: build(dsn))
                done.touch()

    def execute(self, statement: str) -> None:
        """Run one statement as the administrator, outside a transaction."""

        async def work() -> None:
            connection = await asyncpg.connect(self.dsn)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        run(work)


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine to its end in a thread of its own, so that the tests' event loop is left alone."""

    async def main() -> T:
        return await work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(main())).result()


def new_run() -> TestServer:
    """The server of a run that begins now; also removes what runs that were killed left behind."""
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())  # noqa: S108
    for stale in base.glob(f"{_PREFIX}*"):
        pid = stale.name.removeprefix(_PREFIX).split("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(stale, ignore_errors=True) if stale.is_dir() else stale.unlink(missing_ok=True)
    folder = base / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    os.environ[RUN_VARIABLE] = f"{os.getpid()}:{folder}"
    return TestServer(folder, os.getpid())


def joined_run() -> TestServer:
    """The server of the run this worker belongs to."""
    pid, _, folder = os.environ[RUN_VARIABLE].partition(":")
    return TestServer(Path(folder), int(pid))


def fingerprint(folders: Sequence[Path]) -> str:
    """A short hash over every Python and SQL file under ``folders``: the template's version."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.suffix in {".py", ".sql"}):
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
