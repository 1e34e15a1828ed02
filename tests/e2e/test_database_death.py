"""``kill -9`` of the postmaster while clients write: 503 until it is back, by itself, with all that was acknowledged."""

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from deploy.postgres import read_postmaster
from tests.e2e.platform import POSTGRES, RunningPlatform, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
WRITERS = 4
LONGEST_ANSWER_SECONDS = 12


class _Writer(threading.Thread):
    """Creates contacts until told to stop; keeps every answer. A timeout of its client ends it with the error."""

    def __init__(self, platform: RunningPlatform, number: int, enough: threading.Event) -> None:
        super().__init__()
        self.acknowledged: list[str] = []
        self.refused: list[tuple[int, str | None, str]] = []
        self.error: Exception | None = None
        self._platform = platform
        self._number = number
        self._enough = enough

    def run(self) -> None:
        try:
            self._write()
        except Exception as error:
            self.error = error

    def _write(self) -> None:
        with self._platform.client() as client:
            client.timeout = LONGEST_ANSWER_SECONDS
            number = 0
            while not self._enough.is_set():
                number += 1
                body = {"first_name": f"d{self._number}-{number}"}
                made = client.post("/v1/contacts", json=body)
                if made.status_code == 201:
                    self.acknowledged.append(made.json()["id"])
                else:
                    self.refused.append((made.status_code, made.headers.get("Retry-After"), made.text))
                    self._enough.wait(0.05)


def _kill_postmaster(platform: RunningPlatform) -> int:
    found = read_postmaster(platform.home / "postgres" / "data")
    assert found is not None
    os.kill(found.pid, signal.SIGKILL)
    return found.pid


def _wait_for_another(data: Path, dead: int) -> int:
    def another() -> int | None:
        found = read_postmaster(data)
        return found.pid if found is not None and found.ready and found.pid != dead else None

    pid: int = wait_for(another, 30)
    return pid


def test_a_killed_database_comes_back_by_itself(own_platform: RunningPlatform) -> None:
    own_platform.start()
    data = own_platform.home / "postgres" / "data"
    enough = threading.Event()
    writers = [_Writer(own_platform, number, enough) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(2):
            before = [len(writer.acknowledged) for writer in writers]
            wait_for(lambda before=before: _all_wrote(writers, before), 30)
            dead = _kill_postmaster(own_platform)
            _wait_for_another(data, dead)
            assert not psutil.pid_exists(dead), "the dead child is reaped"
            before = [len(writer.acknowledged) for writer in writers]
            wait_for(lambda before=before: _all_wrote(writers, before), 30)
    finally:
        enough.set()
        for writer in writers:
            writer.join()
    assert [writer.error for writer in writers] == [None] * WRITERS
    refused = [each for writer in writers for each in writer.refused]
    assert refused, "the database was away for a moment"
    assert [each for each in refused if each[0] != 503 or not each[1]] == [], own_platform.traceback()
    with own_platform.client() as client:
        for each in (each for writer in writers for each in writer.acknowledged):
            assert client.get(f"/v1/contacts/{each}").status_code == 200
    assert own_platform.tail().count("database_not_started") == 0
    assert own_platform.said.count("PostgreSQL ended unexpectedly") == 2
    if own_platform.mode is POSTGRES:
        _an_adopted_one_does_too_and_without_one_the_platform_ends(own_platform, data)


def _all_wrote(writers: list[_Writer], before: list[int]) -> bool:
    return all(writer.error or len(writer.acknowledged) > had + 5 for writer, had in zip(writers, before, strict=True))


def _an_adopted_one_does_too_and_without_one_the_platform_ends(own_platform: RunningPlatform, data: Path) -> None:
    own_platform.kill()
    own_platform.start()
    _wait_for_another(data, _kill_postmaster(own_platform))
    with own_platform.client() as client:
        wait_for(lambda: client.post("/v1/contacts", json={"first_name": "Ada"}).status_code == 201, 30)
    _kill_postmaster(own_platform)
    assert own_platform.stop() == 0
    assert read_postmaster(data) is None
