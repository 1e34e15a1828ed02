"""The PostgreSQL of ``guardian up``: made on the first run, found again on the next, stopped with us.

Everything is under ``<home>/postgres`` (data, log, socket) and ``<home>/postgres.json`` (port and the
superuser's password, mode 0600). It keeps its promises: fsync is never off here. A server that a
``kill -9`` of ours left running is adopted, not fought. Every failure is a ``PostgresError`` whose text
says what to do.
"""

import fcntl
import json
import os
import secrets
import shutil
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self, TypedDict
from urllib.parse import quote

import psutil

from cli.postgres_log import explain_error, explain_log, lengths, said_since
from cli.progress import step
from deploy.postgres import (
    Account,
    PostgresError,
    account_for,
    binary,
    free_port,
    initialize,
    launch,
    read_postmaster,
    stop_postmaster,
)
from deploy.postgres.server import SUPERUSER, end_orphans, is_free, wait_until_ready

State = Literal["absent", "stopped", "running"]

_SOCKET_PATH_LIMIT = 103  # bytes a Unix socket's path may have everywhere (macOS has the least)
_SOCKET_NAME = "/.s.PGSQL.65535"
_FIRST_RUN_BYTES = 300 * 1024 * 1024
_START_SECONDS = 60.0
_ATTEMPTS = 40

SETTINGS: dict[str, str | int] = {
    "listen_addresses": "127.0.0.1",
    "max_connections": 100,
    # Small, because the whole platform shares a laptop: the operating system's cache does the rest.
    "shared_buffers": "64MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "min_wal_size": "64MB",
    "max_wal_size": "512MB",
    "max_worker_processes": 4,
    "max_parallel_workers": 2,
    "max_parallel_workers_per_gather": 1,
    # No process that would only wait: nothing here replicates logically.
    "max_logical_replication_workers": 0,
    "autovacuum_worker_slots": 3,
    "autovacuum_max_workers": 2,
    "io_method": "sync",
    "jit": "off",
    "compute_query_id": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "on",
    "log_filename": "postgres-%a.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "10MB",
    "log_line_prefix": "%m [%p] %q%a ",
    "log_min_duration_statement": "2s",
}


class _Recorded(TypedDict):
    port: int
    password: str


class EmbeddedPostgres:
    """The server of one home. Use it as a context manager, or ``start`` and ``stop`` it.

    ``start`` blocks for as long as it takes (some 3 s on the first run, less than 1 s later). Who holds it for
    long looks at ``alive`` now and then, and calls ``ensure_running`` where it is not (``cli.watch`` does).
    """

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()
        self._folder = self.home / "postgres"
        self._data = self._folder / "data"
        self._record = self.home / "postgres.json"
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._adopted: psutil.Process | None = None
        self._retired = threading.Event()
        self._changing = threading.Lock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while we hold it."""
        held = self._process or self._adopted
        return held.pid if held is not None else None

    @property
    def alive(self) -> bool:
        """Whether the server we hold still runs. Cheap; a dead child is reaped by it."""
        if self._process is not None:
            return self._process.poll() is None
        try:
            # psutil compares the time of birth too: a process id that was used again is not our server.
            held = self._adopted
            return held is not None and held.is_running() and held.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    @property
    def status(self) -> State:
        """Whether there is data here, and whether a server is running on it (ours or one left behind)."""
        if not (self._data / "PG_VERSION").exists():
            return "absent"
        return "running" if read_postmaster(self._data) else "stopped"

    @property
    def dsn(self) -> str:
        """The administrator's DSN over 127.0.0.1; known once the server has been started once."""
        return self._dsn(self._read_record())

    @property
    def socket_dsn(self) -> str:
        """The administrator's DSN over the Unix socket (less work per call); over 127.0.0.1 where there is none."""
        record, directory = self._read_record(), self._socket_directory()
        if not directory:
            return self._dsn(record)
        return f"postgresql://{SUPERUSER}:{record['password']}@/postgres?host={quote(directory)}&port={record['port']}"

    def start(self) -> str:
        """Make sure that the server runs and accepts connections; returns ``dsn``.

        Raises ``PostgresError`` with a sentence for people when it cannot be had.
        """
        self._retired.clear()
        self._prepare_home()
        self._take_lock()
        try:
            account = self._account()
            if not (self._data / "PG_VERSION").exists():
                self._create(account)
            elif self._adopt():
                return self.dsn
            self._launch(account)
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise PostgresError(explain_error(error, self.home)) from error
            raise
        return self.dsn

    def ensure_running(self) -> bool:
        """Start the server again if it died, with the same ``dsn``; returns whether that was needed. For any thread.

        Does nothing before ``start`` and after ``retire`` or ``stop``. Raises ``PostgresError`` like ``start``.
        """
        with self._changing:
            if self._lock is None or self._retired.is_set() or self.alive:
                return False
            self._forget()
            try:
                self._launch(self._account(), keep_port=True)
            except (PostgresError, OSError) as error:
                if self._retired.is_set():
                    return False
                if isinstance(error, OSError):
                    raise PostgresError(explain_error(error, self.home)) from error
                raise
            return True

    @property
    def retired(self) -> bool:
        """Whether it is not to be started again."""
        return self._retired.is_set()

    def retire(self) -> None:
        """Do not start it again from now on; a start under way in another thread is broken off. Does not block."""
        self._retired.set()

    def running_dsn(self) -> str | None:
        """The DSN of the server another process of this home holds (``guardian migrate`` beside ``up``), or None."""
        found = read_postmaster(self._data)
        return self.dsn if found is not None and found.ready else None

    def stop(self) -> None:
        """Stop the server (adopted or started) and wait until it is gone. May be called twice."""
        self.retire()
        with self._changing:
            if self.pid is not None and self.alive:
                stop_postmaster(self.pid)
            if self._process is not None:
                self._process.wait()
            self._process = self._adopted = None
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    # What must be true before a server can start.

    def _prepare_home(self) -> None:
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            self._folder.mkdir(exist_ok=True)
            probe = self.home / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise PostgresError(explain_error(error, self.home)) from error

    def _take_lock(self) -> None:
        lock = (self.home / "postgres.lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise PostgresError(
                f"{self.home} is in use by another guardian (process {owner}). Stop that one, or give this one a home "
                f"and a port of its own: GUARDIAN_HOME=.guardian-2 GUARDIAN_PORT=8081 make run"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._leave_to_owner(self.home / "postgres.lock")
        self._lock = lock

    def _account(self) -> Account:
        account, reasons = account_for(self._folder, binary("postgres"))
        if account is None:
            raise PostgresError(
                "PostgreSQL refuses to run as root, and no other account can run it here "
                f"({'; '.join(reasons)}). Run the command as an ordinary user, or put the project and GUARDIAN_HOME "
                "where every account may read (for example under /opt or /srv)."
            )
        if self._data.exists():
            owner, ours = self._data.stat().st_uid, os.geteuid() if account.uid is None else account.uid
            if owner != ours:
                raise PostgresError(
                    f"the data in {self._data} belongs to user id {owner}: it was made when the platform ran as another "
                    "user. Run it as that user (or as root) again, or choose another GUARDIAN_HOME."
                )
        return account

    def _create(self, account: Account) -> None:
        free = shutil.disk_usage(self.home).free
        if free < _FIRST_RUN_BYTES:
            raise PostgresError(
                f"the disk of {self.home} has {free // 2**20} MB free and the first start needs "
                f"{_FIRST_RUN_BYTES // 2**20} MB. Free some space, or set GUARDIAN_HOME to a folder on another disk."
            )
        record: _Recorded = {"port": free_port(), "password": secrets.token_urlsafe(24)}
        self._write_record(record)
        with step("Creating the database (once)"):
            try:
                initialize(self._data, account, password=record["password"], sync=True)
            except PostgresError as error:
                raise PostgresError(f"{error}: {explain_log(error.log, self.home)}", error.log) from error

    # Starting and finding.

    def _adopt(self) -> bool:
        found = read_postmaster(self._data)
        if found is None:
            return False
        try:
            found = wait_until_ready(self._data, None, timeout=_START_SECONDS)
            self._adopted = psutil.Process(found.pid)
        except (PostgresError, psutil.NoSuchProcess):
            return False  # it was on its way out
        if found.port != self._read_record()["port"]:
            self._write_record({**self._read_record(), "port": found.port})
        return True

    def _launch(self, account: Account, *, keep_port: bool = False) -> None:
        deadline = time.monotonic() + _START_SECONDS
        for attempt in range(_ATTEMPTS):
            record = self._read_record()
            if attempt == 0 and not keep_port and not is_free(record["port"]):
                record = self._new_port()
            before, log = lengths(self._folder), self._folder / "start.log"
            self._process = launch(self._data, account, self._settings(account, record), log=log)
            try:
                wait_until_ready(self._data, self._process, timeout=_START_SECONDS, cancelled=self._retired)
            except PostgresError as error:
                said = said_since(self._folder, before)
                self._forget()
                hopeless = self._retired.is_set() or time.monotonic() > deadline
                if hopeless or not self._mend(said, keep_port=keep_port):
                    raise PostgresError(f"{error}: {explain_log(said, self.home)}", said) from error
            else:
                return
        raise PostgresError(f"the database server did not start; its log is in {self._folder / 'log'}")

    def _forget(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                stop_postmaster(self._process.pid, mode="immediate", timeout=5)
            self._process.wait()
        self._process = self._adopted = None

    def _mend(self, said: str, *, keep_port: bool) -> bool:
        """Whether another attempt has a chance, after doing what gives it one."""
        if "could not bind" in said or "Address already in use" in said:
            if not keep_port:
                self._new_port()
            return not keep_port
        if "lock file" in said and read_postmaster(self._data) is None:
            # The file names a process that is not a server: process ids are used again after a reboot, and
            # an adopted server that died keeps its own until somebody reaps it.
            socket_locks = (self._folder / "run").glob(".s.PGSQL.*.lock")
            for path in socket_locks if ".s.PGSQL." in said else [self._data / "postmaster.pid"]:
                path.unlink(missing_ok=True)
            return True
        if "shared memory block" in said:
            # A killed postmaster's backends still hold its memory; they end by themselves, or are told to.
            end_orphans(self._data, timeout=2)
            time.sleep(0.2)
            return True
        return False

    def _settings(self, account: Account, record: _Recorded) -> dict[str, str | int]:
        log = self._folder / "log"
        log.mkdir(mode=0o700, exist_ok=True)
        account.own(log)
        directory = self._socket_directory()
        if directory:
            Path(directory).mkdir(mode=0o700, exist_ok=True)
            account.own(Path(directory))
        return {
            **SETTINGS,
            "port": record["port"],
            "unix_socket_directories": directory,
            "log_directory": str(log),
            "data_sync_retry": "off",
        }

    def _socket_directory(self) -> str:
        directory = str(self._folder / "run")
        # A comma would separate two directories in PostgreSQL's setting.
        fits = len((directory + _SOCKET_NAME).encode()) <= _SOCKET_PATH_LIMIT
        return directory if fits and "," not in directory else ""

    # What is written down.

    def _dsn(self, record: _Recorded) -> str:
        return f"postgresql://{SUPERUSER}:{record['password']}@127.0.0.1:{record['port']}/postgres"

    def _read_record(self) -> _Recorded:
        try:
            record: _Recorded = json.loads(self._record.read_text())
        except (OSError, ValueError) as error:
            raise PostgresError(
                f"{self._record}, which holds the password of the database in {self._data}, cannot be read ({error}). "
                "Restore it from a backup, or choose another GUARDIAN_HOME to begin anew."
            ) from error
        return record

    def _write_record(self, record: _Recorded) -> None:
        partial = self._record.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        self._leave_to_owner(partial)
        partial.replace(self._record)

    def _leave_to_owner(self, path: Path) -> None:
        """What root writes into somebody's home stays readable for them."""
        if os.geteuid() == 0:
            owner = self.home.stat()
            os.chown(path, owner.st_uid, owner.st_gid)

    def _new_port(self) -> _Recorded:
        record: _Recorded = {**self._read_record(), "port": free_port()}
        self._write_record(record)
        return record
