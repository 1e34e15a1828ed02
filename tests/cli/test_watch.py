"""The watch over the embedded server: it starts what died, waits longer each time, says so once, and lets go."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cli import watch
from cli.postgres import EmbeddedPostgres
from deploy.postgres import PostgresError


class _Server(EmbeddedPostgres):
    """Dead from the beginning; starts when it has been asked ``failures`` times in vain."""

    def __init__(self, failures: int) -> None:
        super().__init__(Path("nowhere"))
        self.asked = 0
        self.up = False
        self._failures = failures

    @property
    def alive(self) -> bool:
        return self.up

    def ensure_running(self) -> bool:
        self.asked += 1
        if self.asked <= self._failures:
            raise PostgresError(f"the disk is full, attempt {self.asked}")
        self.up = True
        return True


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the watch slept, in seconds; it does not really sleep."""
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real(0)

    monkeypatch.setattr("cli.watch.asyncio.sleep", sleep)
    return slept


async def _until_up(server: _Server) -> None:
    async with asyncio.timeout(10):
        while not server.up:
            await asyncio.to_thread(int)


async def test_it_tries_on_ever_more_slowly_and_says_so_once(pauses: list[float]) -> None:
    server = _Server(failures=8)
    with capture_logs() as lines:
        async with watch.watching(server):
            await _until_up(server)
            async with asyncio.timeout(10):
                while len(lines) < 3:  # the watch says that it is back in its next turn
                    await asyncio.to_thread(int)
    assert pauses[:9] == [1, 1, 2, 4, 8, 16, 30, 30, 30]
    assert [line["event"] for line in lines] == ["database_died", "database_not_started", "database_back"]
    assert "the disk is full, attempt 1" in lines[1]["message"]


async def test_what_dies_again_at_once_is_not_started_at_once(pauses: list[float]) -> None:
    server = _Server(failures=0)
    async with watch.watching(server):
        for _ in range(4):
            await _until_up(server)
            server.up = False
        await _until_up(server)
    assert [each for each in pauses if each > 1] == [2, 4, 8]


async def test_it_lets_go_when_the_block_ends(pauses: list[float]) -> None:
    server = _Server(failures=10**9)
    async with watch.watching(server):
        await asyncio.to_thread(int)
    assert server.retired
    asked = server.asked
    await asyncio.to_thread(int)
    assert server.asked <= asked + 1


async def test_a_database_of_ones_own_is_nobodys_to_watch() -> None:
    async with watch.watching(None):
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "postgres-watch"]
