"""Servers that other processes hold, and the fixtures ``home`` and ``hold``, for the tests of the embedded server."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from deploy.postgres import read_postmaster, stop_postmaster
from deploy.postgres.server import orphans

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
not_as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that other accounts can reach (pytest's own temporary folders are 0700)."""
    folder = Path(tempfile.mkdtemp(prefix="guardian-home-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    folder.chmod(0o755)
    yield folder / "home"
    clean(folder / "home")
    shutil.rmtree(folder, ignore_errors=True)


def clean(home: Path) -> None:
    found = read_postmaster(home / "postgres" / "data")
    if found is not None:
        stop_postmaster(found.pid, mode="immediate")
    for process in orphans(home / "postgres" / "data"):
        process.kill()


def query(dsn: str, statement: str) -> object:
    async def work() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(work())


HOLDER = """
import sys, time
from pathlib import Path
from cli.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
print(server.start(), server.pid, flush=True)
time.sleep(600)
"""


BUSY_BACKEND = """
import asyncio, asyncpg, sys
async def main():
    connection = await asyncpg.connect(sys.argv[1])
    print("here", flush=True)
    await connection.execute("SELECT pg_sleep(600)")
asyncio.run(main())
"""
Held = tuple[subprocess.Popen[str], str, int]
Hold = Callable[..., Held]


@pytest.fixture
def hold(home: Path) -> Iterator[Hold]:
    """``hold(*wrap)``: another process that holds the server of ``home``; gives it, the DSN and the postmaster's pid."""
    holders: list[subprocess.Popen[str]] = []

    def start(*wrap: str, python: str = sys.executable) -> Held:
        holder = subprocess.Popen(
            [*wrap, python, "-c", HOLDER, str(home)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        holders.append(holder)
        assert holder.stdout is not None
        words = holder.stdout.readline().split()
        assert len(words) == 2, (holder.args, holder.communicate()[1])
        return holder, words[0], int(words[1])

    yield start
    for each in holders:
        kill(each)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), *(p for p in sys.path if p)))}


def kill(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.communicate()
