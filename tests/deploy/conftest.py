"""Machines that lack things."""

import os
import stat
from pathlib import Path

import pytest

from deploy.debian import ProgramError
from deploy.redis import REDIS


@pytest.fixture(scope="session")
def redis_here() -> None:
    """The program; CI has it, or Debian's packages."""
    try:
        REDIS.find()
    except ProgramError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(f"no Redis: {error}")


def script(path: Path, text: str) -> Path:
    """Make an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no program but a shell; returns a folder on its PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"
