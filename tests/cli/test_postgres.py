"""The embedded server of a home: made, found again, adopted after a kill -9, and clear when it cannot be had."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import psutil
import pytest

from cli.postgres import SETTINGS, EmbeddedPostgres
from deploy.postgres import PostgresError, binary
from tests.cli.embedded import BUSY_BACKEND, Hold, kill, query


def test_the_first_start_creates_and_a_later_one_finds_the_data(home: Path) -> None:
    server = EmbeddedPostgres(home)
    states: list[str] = [server.status]
    dsn = server.start()
    states.append(server.status)
    query(dsn, "CREATE TABLE kept AS SELECT 7 AS value")
    pid = server.pid
    assert pid is not None
    server.stop()
    assert not psutil.pid_exists(pid)
    states.append(server.status)
    assert states == ["absent", "running", "stopped"]
    with EmbeddedPostgres(home) as again:
        assert again.dsn == dsn
        assert query(again.dsn, "SELECT value FROM kept") == 7
    server.stop()  # a second stop is harmless


def test_it_keeps_its_promises_and_is_small(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            assert query(server.dsn, f"SHOW {name}") == "on"
        assert query(server.dsn, "SHOW shared_buffers") == SETTINGS["shared_buffers"]
        assert query(server.dsn, "SHOW data_checksums") == "on"
        assert str(query(server.dsn, "SHOW server_version")).startswith("18.")


def test_both_addresses_work_and_need_the_password(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        assert query(server.dsn, "SELECT inet_server_addr() IS NULL") is False
        assert query(server.socket_dsn, "SELECT inet_server_addr() IS NULL") is True
        record = home / "postgres.json"
        assert record.stat().st_mode & 0o777 == 0o600
        password = json.loads(record.read_text())["password"]
        for dsn in (server.dsn, server.socket_dsn):
            with pytest.raises(asyncpg.InvalidPasswordError):
                query(dsn.replace(password, "wrong"), "SELECT 1")


@pytest.mark.parametrize("length", [88, 89, 200])
def test_a_home_with_a_long_path_goes_without_the_socket(home: Path, length: int) -> None:
    folder = home / ("x" * (length - len(f"{home}//postgres/run")))
    with EmbeddedPostgres(folder) as server:
        assert (server.socket_dsn == server.dsn) is (length > 88)
        assert query(server.socket_dsn, "SELECT 1") == 1


def test_two_homes_stand_side_by_side(home: Path) -> None:
    with EmbeddedPostgres(home / "one") as one, EmbeddedPostgres(home / "two") as two:
        query(one.dsn, "CREATE TABLE only_in_one ()")
        assert query(two.dsn, "SELECT to_regclass('only_in_one') IS NULL") is True


def test_one_home_serves_one_process(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        with pytest.raises(
            PostgresError, match=rf"in use by another guardian \(process {os.getpid()}\).*GUARDIAN_HOME="
        ):
            EmbeddedPostgres(home).start()
        assert EmbeddedPostgres(home).running_dsn() == server.dsn
        assert query(server.dsn, "SELECT 1") == 1
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
            assert query(server.dsn, "SELECT 1") == 1


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
            assert query(server.dsn, "SELECT 1") == 1
    finally:
        sleeper.kill()
        sleeper.wait()


def test_the_server_a_kill_left_behind_is_adopted(home: Path, hold: Hold) -> None:
    holder, dsn, postmaster = hold()
    query(dsn, "CREATE TABLE kept AS SELECT 7 AS value")
    kill(holder)
    assert psutil.pid_exists(postmaster)
    with EmbeddedPostgres(home) as server:
        assert server.pid == postmaster
        assert query(server.dsn, "SELECT value FROM kept") == 7
    assert not psutil.pid_exists(postmaster)


def test_a_killed_postmaster_with_living_backends_is_outlasted(home: Path, hold: Hold) -> None:
    holder, dsn, postmaster = hold()
    query(dsn, "CREATE TABLE kept AS SELECT 7 AS value")
    backend = subprocess.Popen(
        [sys.executable, "-c", BUSY_BACKEND, dsn], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert backend.stdout is not None
    assert backend.stdout.readline() == "here\n"
    holder.kill()
    os.kill(postmaster, signal.SIGKILL)
    holder.communicate()
    with EmbeddedPostgres(home) as server:
        assert server.pid != postmaster
        assert query(server.dsn, "SELECT value FROM kept") == 7
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
        query(dsn, "CREATE TABLE kept AS SELECT 7 AS value")
        for _ in range(2):
            before = _end(server)
            assert not psutil.pid_exists(before), "the dead child is reaped"
            assert server.ensure_running()
            assert (server.dsn, server.alive, server.pid != before) == (dsn, True, True)
            assert query(dsn, "SELECT value FROM kept") == 7
            assert query(dsn, "SHOW shared_buffers") == SETTINGS["shared_buffers"]


def test_an_adopted_server_that_dies_is_started_again(home: Path, hold: Hold) -> None:
    holder, dsn, postmaster = hold()
    query(dsn, "CREATE TABLE kept AS SELECT 7 AS value")
    kill(holder)
    with EmbeddedPostgres(home) as server:
        assert server.pid == postmaster
        _end(server)
        assert server.ensure_running()
        assert server.dsn == dsn
        assert query(dsn, "SELECT value FROM kept") == 7


def test_a_dead_servers_busy_backend_does_not_stand_in_the_way(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        backend = subprocess.Popen(
            [sys.executable, "-c", BUSY_BACKEND, server.dsn],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert backend.stdout is not None
        assert backend.stdout.readline() == "here\n"
        _end(server)
        assert server.ensure_running()
        assert query(server.dsn, "SELECT 1") == 1
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
        assert query(dsn, "SELECT 1") == 1


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
        assert query(server.dsn, "SELECT 1") == 1


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
    assert query(dsn, "SELECT 1") == 1


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
        assert query(server.dsn, "SELECT 1") == 1
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
