"""Programs of Debian's packages: what this machine lacks is said, and they are fetched once."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.debian import ProgramError
from deploy.redis import REDIS
from tests.deploy.conftest import script

ROOT = Path(__file__).parents[2]


def test_a_machine_without_apt_is_told_what_to_install(nothing_installed: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ProgramError, match=r"no redis-server, and no apt-get to fetch .* Debian or Ubuntu: apt install"
    ):
        REDIS.find(tmp_path)
    script(nothing_installed / "apt-get", "")
    with pytest.raises(ProgramError, match="and no dpkg-deb to fetch one with"):
        REDIS.find(tmp_path)


def test_a_download_that_fails_says_why_and_leaves_nothing_that_looks_whole(
    nothing_installed: Path, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    script(nothing_installed / "apt-get", f'echo "$@" >> {calls}; echo "E: Could not resolve host" >&2; exit 100')
    script(nothing_installed / "dpkg-deb", "")
    said: list[str] = []
    with pytest.raises(ProgramError, match="check the network and apt's sources") as failure:
        REDIS.find(tmp_path / "cache", say=said.append)
    assert "Could not resolve host" in failure.value.log
    assert any("missing or old" in line for line in said)
    assert calls.read_text().splitlines()[1].endswith(" update")
    assert not (tmp_path / "cache" / "redis-server" / "root").exists()


def test_packages_whose_program_does_not_run_are_said(nothing_installed: Path, tmp_path: Path) -> None:
    script(
        nothing_installed / "apt-get", 'case "$*" in *download*) : > redis.deb ;; *) echo "Inst redis-tools" ;; esac'
    )
    script(nothing_installed / "dpkg-deb", '/bin/mkdir -p "$3/usr/bin"')
    with pytest.raises(ProgramError, match=r"does not run here\. Debian or Ubuntu: apt install redis-server"):
        REDIS.find(tmp_path / "cache", say=lambda _line: None)


def test_lists_that_are_missing_or_old_are_renewed_without_root(nothing_installed: Path, tmp_path: Path) -> None:
    script(
        nothing_installed / "apt-get",
        'case "$*" in *Dir::State::Lists=*Dir::Cache=*) ;; *) exit 100 ;; esac\n'
        'case "$*" in *download*) : > redis.deb ;; *install*) echo "Inst redis-tools" ;; esac',
    )
    server = 'mkdir -p "$3/usr/bin"; echo "#!/bin/sh" > "$3/usr/bin/redis-server"; chmod +x "$3/usr/bin/redis-server"'
    script(nothing_installed / "dpkg-deb", f"PATH=/usr/bin:/bin; {server}")
    said: list[str] = []
    found = REDIS.find(tmp_path / "cache", say=said.append)
    assert found.path == tmp_path / "cache" / "redis-server" / "root" / "usr" / "bin" / "redis-server"
    assert [path.name for path in (tmp_path / "cache" / "redis-server").iterdir() if path.is_dir()] == ["root"]
    assert any("missing or old" in line for line in said)
    assert REDIS.find(tmp_path / "cache", say=said.append) == found
    assert sum("==> Getting" in line for line in said) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("redis-server") is not None, reason="an installed Redis is taken as it is")
def test_two_callers_at_once_fetch_once(redis_here: None, tmp_path: Path) -> None:
    fetch = f"from deploy.redis import REDIS; from pathlib import Path; REDIS.find(Path({str(tmp_path)!r}))"
    callers = [subprocess.Popen([sys.executable, "-c", fetch], cwd=ROOT, stderr=-1, text=True) for _ in range(2)]
    said = "".join(caller.communicate()[1] for caller in callers)
    assert [caller.returncode for caller in callers] == [0, 0]
    assert said.count("==> Getting Redis") == 1
    assert REDIS.unpacked(tmp_path / "redis-server").problem() is None
