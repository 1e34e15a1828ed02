"""The Redis of benches: it starts, answers and leaves nothing, says what it lacks, and is fetched once."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from deploy.redis import Redis, RedisError, packages
from tests.bench.processes import inside

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def redis_here() -> None:
    """The program; CI has it, or Debian's packages."""
    try:
        packages.program()
    except RedisError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(f"no Redis: {error}")


@pytest.fixture
def redis(redis_here: None, tmp_path: Path) -> Iterator[Redis]:
    made = Redis(tmp_path)
    yield made
    made.kill()


def _program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no program but a shell; returns a folder on its PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_it_starts_answers_and_leaves_nothing(redis: Redis, tmp_path: Path, end: str) -> None:
    assert not redis.answers()
    redis.start()
    assert redis.answers()
    assert [process.pid for process in inside(tmp_path)] == [redis.pid]
    with pytest.raises(RedisError, match=f"a Redis already runs in {tmp_path}"):
        Redis(tmp_path).start()
    getattr(redis, end)()
    assert redis.pid is None
    assert inside(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["redis.log"]
    redis.start()
    assert redis.answers()


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_it_ends_with_whoever_started_it(redis_here: None, tmp_path: Path) -> None:
    script = (
        f"import time; from deploy.redis import Redis; from pathlib import Path; Redis(Path({str(tmp_path)!r})).start()"
    )
    with subprocess.Popen([sys.executable, "-c", f"{script}; print(flush=True); time.sleep(60)"], stdout=-1) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline()
        started = [process for process in inside(tmp_path) if "unixsocket" in " ".join(process.cmdline())]
        owner.kill()
    for process in started:
        with suppress(psutil.NoSuchProcess):
            process.wait(20)
    assert not Redis(tmp_path).answers()


def test_a_path_that_no_socket_may_have_is_said(tmp_path: Path) -> None:
    with pytest.raises(RedisError, match="is too long a path for a socket; choose a shorter folder"):
        Redis(tmp_path / ("x" * 100)).start()


def test_one_that_does_not_start_says_why(nothing_installed: Path, tmp_path: Path) -> None:
    _program(nothing_installed / "redis-server", "echo 'Can not set maximum open files' >&2; exit 1")
    with pytest.raises(RedisError, match="Redis stopped while starting") as failure:
        Redis(tmp_path / "redis").start()
    assert "maximum open files" in failure.value.log
    _program(nothing_installed / "redis-server", "exec /bin/sleep 60")
    with pytest.raises(RedisError, match="did not answer within 0 s"):
        Redis(tmp_path / "redis").start(timeout=0.1)


def test_a_machine_without_apt_is_told_what_to_install(nothing_installed: Path, tmp_path: Path) -> None:
    with pytest.raises(RedisError, match=r"no redis-server, and no apt-get to fetch .* Debian or Ubuntu: apt install"):
        packages.program(tmp_path)
    _program(nothing_installed / "apt-get", "")
    with pytest.raises(RedisError, match="and no dpkg-deb to fetch one with"):
        packages.program(tmp_path)


def test_a_download_that_fails_says_why_and_leaves_nothing_that_looks_whole(
    nothing_installed: Path, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    _program(nothing_installed / "apt-get", f'echo "$@" >> {calls}; echo "E: Could not resolve host" >&2; exit 100')
    _program(nothing_installed / "dpkg-deb", "")
    said: list[str] = []
    with pytest.raises(RedisError, match="check the network and apt's sources") as failure:
        packages.program(tmp_path / "cache", say=said.append)
    assert "Could not resolve host" in failure.value.log
    assert any("missing or old" in line for line in said)
    assert calls.read_text().splitlines()[1].endswith(" update")
    assert not (tmp_path / "cache" / "root").exists()


def test_packages_whose_program_does_not_run_are_said(nothing_installed: Path, tmp_path: Path) -> None:
    _program(
        nothing_installed / "apt-get", 'case "$*" in *download*) : > redis.deb ;; *) echo "Inst redis-tools" ;; esac'
    )
    _program(nothing_installed / "dpkg-deb", '/bin/mkdir -p "$3/usr/bin"')
    with pytest.raises(RedisError, match=r"does not run here\. Debian or Ubuntu: apt install redis-server"):
        packages.program(tmp_path / "cache", say=lambda _line: None)


def test_lists_that_are_missing_or_old_are_renewed_without_root(nothing_installed: Path, tmp_path: Path) -> None:
    _program(
        nothing_installed / "apt-get",
        'case "$*" in *Dir::State::Lists=*Dir::Cache=*) ;; *) exit 100 ;; esac\n'
        'case "$*" in *download*) : > redis.deb ;; *install*) echo "Inst redis-tools" ;; esac',
    )
    server = 'mkdir -p "$3/usr/bin"; echo "#!/bin/sh" > "$3/usr/bin/redis-server"; chmod +x "$3/usr/bin/redis-server"'
    _program(nothing_installed / "dpkg-deb", f"PATH=/usr/bin:/bin; {server}")
    said: list[str] = []
    found = packages.program(tmp_path / "cache", say=said.append)
    assert found.path == tmp_path / "cache" / "root" / "usr" / "bin" / "redis-server"
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == ["root"]
    assert any("missing or old" in line for line in said)
    assert packages.program(tmp_path / "cache", say=said.append) == found
    assert sum("==> Getting" in line for line in said) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("redis-server") is not None, reason="an installed Redis is taken as it is")
def test_two_callers_at_once_fetch_once(redis_here: None, tmp_path: Path) -> None:
    fetch = f"from deploy.redis import packages; from pathlib import Path; packages.program(Path({str(tmp_path)!r}))"
    callers = [subprocess.Popen([sys.executable, "-c", fetch], cwd=ROOT, stderr=-1, text=True) for _ in range(2)]
    said = "".join(caller.communicate()[1] for caller in callers)
    assert [caller.returncode for caller in callers] == [0, 0]
    assert said.count("==> Getting Redis") == 1
    assert packages._unpacked(tmp_path).problem() is None
