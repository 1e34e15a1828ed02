"""The launcher: what it refuses, and what it leaves to the program it becomes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.postgres import become
from deploy.postgres.account import Account

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")


def _options(**changes: object) -> str:
    return json.dumps(
        {"uid": None, "gid": None, "keep_dac_override": False, "die_with_parent": None, "cwd": "/"} | changes
    )


def test_the_program_runs_in_the_folder_with_a_closed_umask(tmp_path: Path) -> None:
    command = Account().command(["/bin/sh", "-c", "pwd; umask"], cwd=tmp_path)
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == [str(tmp_path), "0077"]


@as_root
def test_nothing_of_root_is_left() -> None:
    account = Account(uid=65534, gid=65534, name="nobody")
    script = "id -u; id -g; id -G; grep CapEff /proc/self/status"
    result = subprocess.run(
        account.command(["/bin/sh", "-c", script], cwd=Path("/")), capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["65534", "65534", "65534", "CapEff:", "0000000000000000"]


def test_a_folder_that_cannot_be_entered_is_an_error_not_a_surprise(tmp_path: Path) -> None:
    command = Account().command(["/bin/true"], cwd=tmp_path / "missing")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 126
    assert "No such file or directory" in result.stderr


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    assert "cannot run" in (Account().can_run(tmp_path / "missing", cwd=tmp_path) or "")


def test_it_ends_when_its_parent_is_already_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_path: str, _args: list[str]) -> None:
        pytest.fail("it ran the program")

    monkeypatch.setattr(os, "execv", never)
    monkeypatch.setattr(sys, "argv", ["become.py", _options(die_with_parent=[-1, 3]), "/bin/true"])
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(become, "_check", lambda _result, _what: None)
    with pytest.raises(SystemExit) as exit_status:
        become.main()
    assert exit_status.value.code == 126
