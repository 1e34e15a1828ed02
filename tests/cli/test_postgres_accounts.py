"""The embedded server and accounts: root lends it one, others run it as themselves, and who may write where."""

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cli.postgres import EmbeddedPostgres
from deploy.postgres import Account, PostgresError
from tests.cli.embedded import HOLDER, ROOT, Hold, as_root, clean, environment, kill, not_as_root, query


@as_root
def test_root_lends_the_server_another_account(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        process = psutil.Process(server.pid)
        assert process.uids().effective != 0
        assert _effective_capabilities(process.pid) == 0


@as_root
def test_a_home_only_root_may_enter_still_works(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    home = closed / "home"
    try:
        with EmbeddedPostgres(home) as server:
            assert query(server.dsn, "SELECT 1") == 1
            assert psutil.Process(server.pid).uids().effective != 0
            # One capability, to pass the closed folder, and no other.
            assert _effective_capabilities(server.pid or 0) == 1 << 1
        with EmbeddedPostgres(home) as server:
            assert query(server.dsn, "SELECT 1") == 1
    finally:
        clean(home)


@as_root
def test_programs_only_root_may_reach_find_one_another(tmp_path: Path) -> None:
    """Initdb asks access(2) for its binaries, which forgets capabilities unless it is told not to."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    program = closed / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    nobody = pwd.getpwnam("nobody")
    look = f"import os, sys; sys.exit(not os.access({str(program)!r}, os.X_OK))"
    for keep, found in ((True, 0), (False, 1)):
        account = Account(nobody.pw_uid, nobody.pw_gid, nobody.pw_name, keep)
        command = account.command(["/usr/bin/python3", "-I", "-c", look], cwd=Path("/"))
        assert subprocess.run(command, check=False).returncode == found


@as_root
def test_without_any_usable_account_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.postgres.account._candidates", lambda folder: iter(()))
    with pytest.raises(PostgresError, match=r"refuses to run as root.*ordinary user"):
        EmbeddedPostgres(tmp_path / "home").start()


def _effective_capabilities(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff")), 16)


@as_root
def test_an_ordinary_user_runs_it_as_themselves_and_adopts_their_own(home: Path, hold: Hold) -> None:
    python = _python_for_everyone()
    home.mkdir()
    os.chown(home, 65534, 65534)
    wrap = ("/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    holder, dsn, postmaster = hold(*wrap, python=python)
    assert psutil.Process(postmaster).uids().effective == 65534
    query(dsn, "CREATE TABLE kept AS SELECT 7 AS value")
    kill(holder)
    again, dsn, adopted = hold(*wrap, python=python)
    assert adopted == postmaster
    assert query(dsn, "SELECT value FROM kept") == 7
    kill(again)
    # Root may take over: the server stays its owner's, and the record stays readable for them.
    with EmbeddedPostgres(home) as server:
        assert server.pid == postmaster
        assert (home / "postgres.json").stat().st_uid == 65534


def _python_for_everyone() -> str:
    """An interpreter that other accounts may run and that can load this environment's packages."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        probe = subprocess.run(
            ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", candidate, "-c",
             "import asyncpg, psutil, rich, subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"],
            env={"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}, capture_output=True, check=False,
        )  # fmt: skip
        if probe.returncode == 0:
            return candidate
    pytest.skip("no interpreter here can be run by another account")


@as_root
def test_data_of_another_user_is_not_touched(home: Path) -> None:
    python = _python_for_everyone()
    with EmbeddedPostgres(home):
        pass
    for path in (home, home / "postgres.json", home / "postgres.lock"):
        os.chown(path, 65534, 65534)
    result = subprocess.run(
        ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, "-c", HOLDER, str(home)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=environment(),
    )  # fmt: skip
    assert result.returncode != 0
    assert "belongs to user id" in result.stderr.splitlines()[-1]
    assert (home / "postgres" / "data").stat().st_uid not in {0, 65534}


@as_root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize(
    "options, expected",
    [("size=64m", "needs 300 MB"), ("size=400m,ro", "cannot be written"), ("size=330m", "is full")],
)
def test_a_home_that_cannot_hold_the_data_says_so(tmp_path: Path, options: str, expected: str) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    fill = f"head -c 315000000 /dev/zero > {mount}/ballast" if expected == "is full" else "true"
    code = "import cli.postgres\ncli.postgres._FIRST_RUN_BYTES = 0\n" + HOLDER
    script = (
        f"mount -t tmpfs -o mode=755,{options} none {mount} && {fill} && exec {sys.executable} -c "
        f"'{code if expected == 'is full' else HOLDER}' {mount}/home"
    )
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=50, env=environment(),
    )  # fmt: skip
    if "unshare failed" in result.stderr or "permission denied" in result.stderr:
        pytest.skip("mount namespaces are not allowed here")
    assert expected in result.stderr.splitlines()[-1]
    assert "GUARDIAN_HOME" in result.stderr.splitlines()[-1]


@not_as_root
def test_a_read_only_home_says_what_to_do(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PostgresError, match=r"cannot be written.*GUARDIAN_HOME=~/\.guardian"):
        EmbeddedPostgres(tmp_path / "home").start()
