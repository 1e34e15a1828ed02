"""The embedded server of a home: made, found again, adopted after a kill -9, and clear when it cannot be had."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import psutil
import pytest

from cli.postgres import SETTINGS, EmbeddedPostgres
from deploy.postgres import PostgresError, binary, read_postmaster, stop_postmaster
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
    _clean(folder / "home")
    shutil.rmtree(folder, ignore_errors=True)


def _clean(home: Path) -> None:
    found = read_postmaster(home / "postgres" / "data")
    if found is not None:
        stop_postmaster(found.pid, mode="immediate")
    for process in orphans(home / "postgres" / "data"):
        process.kill()


def _query(dsn: str, statement: str) -> object:
    async def work() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(work())


def test_the_first_start_creates_and_a_later_one_finds_the_data(home: Path) -> None:
    server = EmbeddedPostgres(home)
    states: list[str] = [server.status]
    dsn = server.start()
    states.append(server.status)
    _query(dsn, "CREATE TABLE kept AS SELECT 7 AS value")
    pid = server.pid
    assert pid is not None
    server.stop()
    assert not psutil.pid_exists(pid)
    states.append(server.status)
    assert states == ["absent", "running", "stopped"]
    with EmbeddedPostgres(home) as again:
        assert again.dsn == dsn
        assert _query(again.dsn, "SELECT value FROM kept") == 7
    server.stop()  # a second stop is harmless


def test_it_keeps_its_promises_and_is_small(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            assert _query(server.dsn, f"SHOW {name}") == "on"
        assert _query(server.dsn, "SHOW shared_buffers") == SETTINGS["shared_buffers"]
        assert _query(server.dsn, "SHOW data_checksums") == "on"
        assert str(_query(server.dsn, "SHOW server_version")).startswith("18.")


def test_both_addresses_work_and_need_the_password(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        assert _query(server.dsn, "SELECT inet_server_addr() IS NULL") is False
        assert _query(server.socket_dsn, "SELECT inet_server_addr() IS NULL") is True
        record = home / "postgres.json"
        assert record.stat().st_mode & 0o777 == 0o600
        password = json.loads(record.read_text())["password"]
        for dsn in (server.dsn, server.socket_dsn):
            with pytest.raises(asyncpg.InvalidPasswordError):
                _query(dsn.replace(password, "wrong"), "SELECT 1")


@pytest.mark.parametrize("length", [88, 89, 200])
def test_a_home_with_a_long_path_goes_without_the_socket(home: Path, length: int) -> None:
    folder = home / ("x" * (length - len(f"{home}//postgres/run")))
    with EmbeddedPostgres(folder) as server:
        assert (server.socket_dsn == server.dsn) is (length > 88)
        assert _query(server.socket_dsn, "SELECT 1") == 1


def test_two_homes_stand_side_by_side(home: Path) -> None:
    with EmbeddedPostgres(home / "one") as one, EmbeddedPostgres(home / "two") as two:
        _query(one.dsn, "CREATE TABLE only_in_one ()")
        assert _query(two.dsn, "SELECT to_regclass('only_in_one') IS NULL") is True


def test_one_home_serves_one_process(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        with pytest.raises(
            PostgresError, match=rf"in use by another guardian \(process {os.getpid()}\).*GUARDIAN_HOME="
        ):
            EmbeddedPostgres(home).start()
        assert EmbeddedPostgres(home).running_dsn() == server.dsn
        assert _query(server.dsn, "SELECT 1") == 1
    assert EmbeddedPostgres(home).running_dsn() is None


def test_a_busy_port_is_replaced(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.start()
    before = json.loads((home / "postgres.json").read_text())["port"]
    server.stop()
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", before))
        squatter.listen()
        with server:
            assert json.loads((home / "postgres.json").read_text())["port"] != before
            assert _query(server.dsn, "SELECT 1") == 1


def test_a_stale_pid_file_is_no_server(home: Path) -> None:
    with EmbeddedPostgres(home):
        pass
    data = home / "postgres" / "data"
    owner = data.stat()
    # A living process of the server's own account that is something else: what a reboot can leave behind.
    sleeper = subprocess.Popen(["/bin/sleep", "60"], user=owner.st_uid)
    try:
        pid_file = data / "postmaster.pid"
        pid_file.write_text(f"{sleeper.pid}\n{data}\n1\n1\n\n127.0.0.1\n1 1\nready\n")
        os.chown(pid_file, owner.st_uid, owner.st_gid)
        assert EmbeddedPostgres(home).status == "stopped"
        with EmbeddedPostgres(home) as server:
            assert _query(server.dsn, "SELECT 1") == 1
    finally:
        sleeper.kill()
        sleeper.wait()


_HOLDER = """
import sys, time
from pathlib import Path
from cli.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
print(server.start(), server.pid, flush=True)
time.sleep(600)
"""


_BUSY_BACKEND = """
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
            [*wrap, python, "-c", _HOLDER, str(home)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(),
        )  # fmt: skip
        holders.append(holder)
        assert holder.stdout is not None
        words = holder.stdout.readline().split()
        assert len(words) == 2, (holder.args, holder.communicate()[1])
        return holder, words[0], int(words[1])

    yield start
    for each in holders:
        _kill(each)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), *(p for p in sys.path if p)))}


def _kill(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.communicate()


def test_the_server_a_kill_left_behind_is_adopted(home: Path, hold: Hold) -> None:
    holder, dsn, postmaster = hold()
    _query(dsn, "CREATE TABLE kept AS SELECT 7 AS value")
    _kill(holder)
    assert psutil.pid_exists(postmaster)
    with EmbeddedPostgres(home) as server:
        assert server.pid == postmaster
        assert _query(server.dsn, "SELECT value FROM kept") == 7
    assert not psutil.pid_exists(postmaster)


def test_a_killed_postmaster_with_living_backends_is_outlasted(home: Path, hold: Hold) -> None:
    holder, dsn, postmaster = hold()
    _query(dsn, "CREATE TABLE kept AS SELECT 7 AS value")
    backend = subprocess.Popen(
        [sys.executable, "-c", _BUSY_BACKEND, dsn], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert backend.stdout is not None
    assert backend.stdout.readline() == "here\n"
    holder.kill()
    os.kill(postmaster, signal.SIGKILL)
    holder.communicate()
    with EmbeddedPostgres(home) as server:
        assert server.pid != postmaster
        assert _query(server.dsn, "SELECT value FROM kept") == 7
    backend.communicate()


def _end(server: EmbeddedPostgres) -> int:
    """``kill -9`` the postmaster; gives its process id once it is seen to be gone."""
    pid = server.pid
    assert pid is not None
    assert not server.ensure_running(), "nothing to do while it runs"
    os.kill(pid, signal.SIGKILL)
    while server.alive:
        time.sleep(0.01)
    return pid


def test_a_dead_server_is_started_again_at_the_same_address(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        dsn = server.dsn
        _query(dsn, "CREATE TABLE kept AS SELECT 7 AS value")
        for _ in range(2):
            before = _end(server)
            assert not psutil.pid_exists(before), "the dead child is reaped"
            assert server.ensure_running()
            assert (server.dsn, server.alive, server.pid != before) == (dsn, True, True)
            assert _query(dsn, "SELECT value FROM kept") == 7
            assert _query(dsn, "SHOW shared_buffers") == SETTINGS["shared_buffers"]


def test_an_adopted_server_that_dies_is_started_again(home: Path, hold: Hold) -> None:
    holder, dsn, postmaster = hold()
    _query(dsn, "CREATE TABLE kept AS SELECT 7 AS value")
    _kill(holder)
    with EmbeddedPostgres(home) as server:
        assert server.pid == postmaster
        _end(server)
        assert server.ensure_running()
        assert server.dsn == dsn
        assert _query(dsn, "SELECT value FROM kept") == 7


def test_a_dead_servers_busy_backend_does_not_stand_in_the_way(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        backend = subprocess.Popen(
            [sys.executable, "-c", _BUSY_BACKEND, server.dsn],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert backend.stdout is not None
        assert backend.stdout.readline() == "here\n"
        _end(server)
        assert server.ensure_running()
        assert _query(server.dsn, "SELECT 1") == 1
        backend.communicate()


def test_a_dead_server_waits_for_its_port(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        dsn, port = server.dsn, json.loads((home / "postgres.json").read_text())["port"]
        _end(server)
        with socket.socket() as squatter:
            squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            squatter.bind(("127.0.0.1", port))
            squatter.listen()
            with pytest.raises(PostgresError, match="log:"):
                server.ensure_running()
            assert not server.alive
        assert server.ensure_running()
        assert server.dsn == dsn
        assert _query(dsn, "SELECT 1") == 1


def test_a_retired_server_stays_down(home: Path) -> None:
    server = EmbeddedPostgres(home)
    assert not server.ensure_running(), "it was never started"
    server.start()
    _end(server)
    server.retire()
    assert not server.ensure_running()
    server.stop()
    assert not server.ensure_running()
    assert server.status == "stopped"
    with server:
        assert _query(server.dsn, "SELECT 1") == 1


def test_a_stop_breaks_off_a_start_under_way(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedPostgres(home)
    server.start()
    _end(server)
    starting = threading.Event()

    def never_ready(data: Path) -> None:
        starting.set()

    with monkeypatch.context() as patched:
        patched.setattr("deploy.postgres.server.read_postmaster", never_ready)
        with ThreadPoolExecutor() as threads:
            started = threads.submit(server.ensure_running)
            assert starting.wait(10)
            server.stop()
            assert started.result(timeout=10) is False
    assert server.pid is None
    assert server.status == "stopped"


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(hold: Hold) -> None:
    holder, dsn, postmaster = hold()
    assert os.getsid(postmaster) == postmaster
    assert os.getsid(postmaster) != os.getsid(holder.pid)
    assert _query(dsn, "SELECT 1") == 1


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
            assert _query(server.dsn, "SELECT 1") == 1
            assert psutil.Process(server.pid).uids().effective != 0
            # One capability, to pass the closed folder, and no other.
            assert _effective_capabilities(server.pid or 0) == 1 << 1
        with EmbeddedPostgres(home) as server:
            assert _query(server.dsn, "SELECT 1") == 1
    finally:
        _clean(home)


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
    _query(dsn, "CREATE TABLE kept AS SELECT 7 AS value")
    _kill(holder)
    again, dsn, adopted = hold(*wrap, python=python)
    assert adopted == postmaster
    assert _query(dsn, "SELECT value FROM kept") == 7
    _kill(again)
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
        ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, "-c", _HOLDER, str(home)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=_environment(),
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
    code = "import cli.postgres\ncli.postgres._FIRST_RUN_BYTES = 0\n" + _HOLDER
    script = (
        f"mount -t tmpfs -o mode=755,{options} none {mount} && {fill} && exec {sys.executable} -c "
        f"'{code if expected == 'is full' else _HOLDER}' {mount}/home"
    )
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=50, env=_environment(),
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


def test_a_lost_password_file_says_what_to_do(home: Path) -> None:
    with EmbeddedPostgres(home):
        pass
    (home / "postgres.json").unlink()
    with pytest.raises(PostgresError, match="Restore it from a backup, or choose another GUARDIAN_HOME"):
        EmbeddedPostgres(home).start()


def test_data_of_another_major_version_says_what_to_do(home: Path) -> None:
    with EmbeddedPostgres(home):
        pass
    (home / "postgres" / "data" / "PG_VERSION").write_text("17\n")
    with pytest.raises(PostgresError, match="another major version"):
        EmbeddedPostgres(home).start()


def test_an_interrupted_first_start_is_begun_again(home: Path) -> None:
    half_made = home / "postgres" / "data.new"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(home) as server:
        assert _query(server.dsn, "SELECT 1") == 1
    assert not half_made.exists()


def test_the_wheels_programs_are_found() -> None:
    assert binary("postgres").is_file()
    with pytest.raises(PostgresError, match="make install"):
        binary("no-such-program")


def test_nothing_waits_longer_than_it_must(home: Path) -> None:
    """A server that cannot start fails at once instead of using up its retries."""
    with EmbeddedPostgres(home):
        pass
    (home / "postgres" / "data" / "global" / "pg_control").unlink()
    begun = time.monotonic()
    with pytest.raises(PostgresError, match=r"stopped while starting.*log:"):
        EmbeddedPostgres(home).start()
    assert time.monotonic() - begun < 30
