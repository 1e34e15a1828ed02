"""The Redis of benches: it starts, answers and leaves nothing, says what it lacks, and is fetched once."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from deploy.debian import ProgramError
from deploy.redis import Redis
from tests.bench.processes import inside
from tests.deploy.conftest import script

ROOT = Path(__file__).parents[2]


@pytest.fixture
def redis(redis_here: None, tmp_path: Path) -> Iterator[Redis]:
    made = Redis(tmp_path)
    yield made
    made.kill()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_it_starts_answers_and_leaves_nothing(redis: Redis, tmp_path: Path, end: str) -> None:
    assert not redis.answers()
    redis.start()
    assert redis.answers()
    assert [process.pid for process in inside(tmp_path)] == [redis.pid]
    with pytest.raises(ProgramError, match=f"a Redis already runs in {tmp_path}"):
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
    with pytest.raises(ProgramError, match="is too long a path for a socket; choose a shorter folder"):
        Redis(tmp_path / ("x" * 100)).start()


def test_one_that_does_not_start_says_why(nothing_installed: Path, tmp_path: Path) -> None:
    script(nothing_installed / "redis-server", "echo 'Can not set maximum open files' >&2; exit 1")
    with pytest.raises(ProgramError, match="Redis stopped while starting") as failure:
        Redis(tmp_path / "redis").start()
    assert "maximum open files" in failure.value.log
    script(nothing_installed / "redis-server", "exec /bin/sleep 60")
    with pytest.raises(ProgramError, match="did not answer within 0 s"):
        Redis(tmp_path / "redis").start(timeout=0.1)
