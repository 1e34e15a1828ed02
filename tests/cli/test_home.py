"""What a home tells other commands, and what of it they believe."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli import home
from cli.home import connected_settings, on_the_same_bus
from shared.settings import Settings

SLEEP = "import time; print(flush=True); time.sleep(60)"


def _left(folder: Path, pid: int) -> Settings:
    found = {"pid": pid, "kafka_bootstrap_servers": "broker:9092", "kafka_prefix": "other"}
    (folder / home.RUNNING_FILE).write_text(json.dumps(found))
    return Settings(home=folder)


def test_the_bus_of_a_platform_that_runs_is_found_by_those_who_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEP, "guardian", "up"], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        settings = _left(tmp_path, running.pid)
        found = on_the_same_bus(settings)
        assert (found.kafka_bootstrap_servers, found.kafka_prefix) == ("broker:9092", "other")
        own = Settings(home=tmp_path, kafka_bootstrap_servers="mine:1")
        assert on_the_same_bus(own) == own
        # What publishes and consumes is told where.
        monkeypatch.setenv("GUARDIAN_HOME", str(tmp_path))
        assert connected_settings(required=False).kafka_bootstrap_servers is None
        running.kill()
        running.wait()
        assert on_the_same_bus(settings) == settings


@pytest.mark.parametrize("pid", [os.getpid(), 2**22 + 1], ids=["another program", "nobody"])
def test_a_file_that_a_killed_platform_left_is_not_believed(tmp_path: Path, pid: int) -> None:
    settings = _left(tmp_path, pid)
    assert on_the_same_bus(settings) == settings


def test_a_file_that_is_no_such_file_is_not_believed(tmp_path: Path) -> None:
    settings = _left(tmp_path, 1)
    (tmp_path / home.RUNNING_FILE).write_text("{")
    assert on_the_same_bus(settings) == settings
