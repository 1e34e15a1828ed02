"""Owns a server of the test run: ``python -m shared.testing.guard postgres|kafka <folder> <pid of pytest>``.

A process of its own, so that the server ends with the run however the run ends: it waits for pytest to
be gone (or for SIGTERM), stops the server and removes the folder. When the guard itself is killed, the
kernel stops the server, and the next run removes what stayed.
"""

import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType

import psutil

from deploy.kafka import Broker, ContainerBroker, KafkaError, engine_runs
from deploy.postgres import PostgresError, account_for, binary, free_port, initialize, launch, stop_postmaster
from deploy.postgres.server import SUPERUSER, wait_until_ready

READY = "ready"
FAILED = "failed"

# Nothing of a test run survives it, so nothing is worth waiting for a disk. Benches and fault tests
# use a server of their own that keeps its promises.
_SETTINGS: dict[str, str | int] = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "max_wal_size": "512MB",
    "autovacuum": "off",
    "jit": "off",
    "shared_buffers": "128MB",
    "max_connections": 300,
    "max_locks_per_transaction": 256,
    "timezone": "UTC",
    "file_copy_method": "copy",
}


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _publish(folder: Path, name: str, text: str) -> None:
    # Renamed into place: whoever sees the file sees all of it.
    partial = folder / f"{name}.partial"
    partial.write_text(text)
    partial.rename(folder / name)


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """PostgreSQL; yields its administrator's DSN."""
    log, home = folder / "postgres.log", folder / "pg"
    home.mkdir()
    account, reasons = account_for(home, binary("postgres"))
    if account is None:
        raise PostgresError(f"no account can run the test server: {'; '.join(reasons)}")
    password, port = secrets.token_hex(16), free_port()
    initialize(home / "data", account, password=password, sync=False)
    settings = {**_SETTINGS, "port": port, "unix_socket_directories": ""}
    server = launch(home / "data", account, settings, log=log, die_with_parent=True)
    try:
        wait_until_ready(home / "data", server, timeout=30)
        yield f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{port}/postgres"
    except PostgresError as error:
        error.log = f"{error.log}\n{log.read_text(errors='replace')}"
        raise
    finally:
        stop_postmaster(server.pid, mode="immediate", timeout=10)
        server.wait()


@contextmanager
def _kafka(folder: Path) -> Iterator[str]:
    """Kafka, in a container where an engine runs; yields its bootstrap servers."""
    broker = ContainerBroker() if engine_runs() else Broker(folder / "kafka")
    try:
        broker.start()
        yield broker.bootstrap_servers
    finally:
        broker.kill()


_SERVERS: dict[str, Callable[[Path], AbstractContextManager[str]]] = {"postgres": _postgres, "kafka": _kafka}


def main() -> None:
    """Start the server in ``folder``, write its address to ``folder/ready``, watch pytest."""
    kind, folder, pytest_pid = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with _SERVERS[kind](folder) as address:
            _publish(folder, READY, address)
            psutil.Process(pytest_pid).wait()
    except psutil.NoSuchProcess:
        return
    except (PostgresError, KafkaError, OSError) as error:
        _publish(folder, FAILED, f"{error}\n{getattr(error, 'log', '')}".strip())
        psutil.Process(pytest_pid).wait()  # the reason stays readable for as long as the run lasts
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
