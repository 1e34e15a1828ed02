"""The program: the redis-server on the PATH, else that of Debian's packages, unpacked without root into ``.cache/``."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".cache" / "redis"
_INSTALL = "Debian or Ubuntu: apt install redis-server; Fedora: dnf install redis; macOS: brew install redis"
_FETCH_SECONDS = 300

Say = Callable[[str], None]


class RedisError(Exception):
    """The server cannot be had. The message is for people; ``log`` is what the program itself said."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class _NotFetched(RedisError):
    """What apt did not do: its lists of packages may be missing or old."""


@dataclass(frozen=True)
class Program:
    """A redis-server, and the folders of libraries that this machine does not have where it looks for them."""

    path: Path
    libraries: tuple[Path, ...] = ()

    def environment(self) -> dict[str, str]:
        """What it inherits; no secret of ours."""
        kept = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
        given = os.environ.get("LD_LIBRARY_PATH")
        places = [*map(str, self.libraries), *([given] if given else [])]
        return kept | ({"LD_LIBRARY_PATH": os.pathsep.join(places)} if places else {})

    def problem(self) -> str | None:
        """None when it runs, otherwise what it said."""
        try:
            result = subprocess.run(
                [str(self.path), "--version"],
                capture_output=True, text=True, check=False, env=self.environment(), stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            return str(error)
        return None if result.returncode == 0 else result.stderr + result.stdout


def tell(line: str) -> None:
    """A line for people; standard output is for figures."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def program(cache: Path = CACHE, *, say: Say = tell) -> Program:
    """The program, fetched if need be. Callers at once fetch once; the others wait."""
    installed = shutil.which("redis-server")
    if installed is not None:
        return Program(Path(installed).resolve())
    if _unpacked(cache).problem() is not None:
        with _lock(cache):
            if _unpacked(cache).problem() is not None:
                _fetch(cache, say)
    return _unpacked(cache)


def _unpacked(cache: Path) -> Program:
    usr = cache.resolve() / "root" / "usr"
    return Program(usr / "bin" / "redis-server", tuple(sorted((usr / "lib").glob("*-linux-gnu*"))))


@contextmanager
def _lock(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch(cache: Path, say: Say) -> None:
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise RedisError(f"this machine has no redis-server, and no {tool} to fetch one with. {_INSTALL}")
    # Made beside and renamed, so that an interrupted download leaves nothing that looks whole.
    partial = cache.resolve() / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "packages").mkdir(parents=True)
    say("==> Getting Redis from Debian's packages (2 MB, once)")
    try:
        _download(partial / "packages", ())
    except _NotFetched:
        say("    the lists of packages of this machine are missing or old: getting them (some 15 MB)")
        _download(partial / "packages", _own_lists(partial))
    for package in (partial / "packages").glob("*.deb"):
        _run("dpkg-deb", "--extract", str(package), str(partial / "root"))
    shutil.rmtree(cache / "root", ignore_errors=True)
    (partial / "root").rename(cache / "root")
    shutil.rmtree(partial)
    problem = _unpacked(cache).problem()
    if problem is not None:
        raise RedisError(f"the redis-server of Debian's packages does not run here. {_INSTALL}", problem)
    say(f"==> Redis is in {cache / 'root'}")


def _download(folder: Path, options: Sequence[str]) -> None:
    """Get the packages of the server and of those of its libraries that this machine does not have."""
    plan = _run("apt-get", *options, "--simulate", "--no-install-recommends", "install", "redis-server")
    wanted = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
    _run("apt-get", *options, "download", *(name for name in wanted if name.startswith(("redis", "lib"))), cwd=folder)


def _own_lists(folder: Path) -> list[str]:
    """Get lists of packages that need no root; returns the options that make apt read them."""
    options = []
    for setting, name in (("Dir::State::Lists", "lists"), ("Dir::Cache", "cache")):
        (folder / name / "partial").mkdir(parents=True)
        options += ["-o", f"{setting}={folder / name}"]
    _run("apt-get", *options, "update")
    return options


def _run(*command: str, cwd: Path | None = None) -> str:
    try:
        result = subprocess.run(
            command,
            capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL, timeout=_FETCH_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RedisError(
            f"{command[0]} was not done after {_FETCH_SECONDS} s; check the network. {_INSTALL}"
        ) from error
    if result.returncode != 0:
        raise _NotFetched(
            f"Debian's packages of Redis cannot be had; check the network and apt's sources. {_INSTALL}",
            result.stderr or result.stdout,
        )
    return result.stdout
