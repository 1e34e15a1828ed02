"""``kill -9`` in a write loop, again and again: every acknowledged write is there once, with its one audit entry."""

import threading

import httpx
import pytest

from tests.e2e.platform import RunningPlatform, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
KILLS = {"postgres": 10, "kafka": 2, "split": 1}
WRITERS = 4


class _Writers:
    """Threads that create contacts as fast as they can and keep what was acknowledged."""

    def __init__(self, platform: RunningPlatform, round_number: int) -> None:
        self.acknowledged: list[str] = []
        self._platform = platform
        self._round = round_number
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)]

    def run_until_killed(self, after: int) -> None:
        for thread in self._threads:
            thread.start()
        wait_for(lambda: len(self.acknowledged) >= after, 30)
        self._platform.kill()
        for thread in self._threads:
            thread.join()

    def _write(self, writer: int) -> None:
        with self._platform.client() as client:
            for number in range(10_000):
                name = f"k{self._round}-{writer}-{number}"
                try:
                    made = client.post("/v1/contacts", json={"first_name": name, "tags": ["kill-test"]})
                except httpx.TransportError:
                    return
                assert made.status_code == 201, made.text
                self.acknowledged.append(made.json()["id"])


def test_no_acknowledged_write_is_lost(own_platform: RunningPlatform) -> None:
    acknowledged: set[str] = set()
    kills = KILLS[own_platform.mode.name]
    for round_number in range(kills):
        own_platform.start()
        writers = _Writers(own_platform, round_number)
        writers.run_until_killed(after=20 + 17 * round_number)
        acknowledged |= set(writers.acknowledged)
    own_platform.start()
    rows = [row["id"] for row in own_platform.all_of("/v1/contacts", tag="kill-test")]
    assert len(rows) == len(set(rows))
    assert acknowledged <= set(rows)
    # A write whose answer was lost may be there too: at most one for each writer and kill.
    assert len(rows) - len(acknowledged) <= kills * WRITERS
    own_platform.has_one_entry_each(rows)
