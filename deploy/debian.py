"""Programs for tests and benches: the one on the PATH, else that of Debian's packages, unpacked without root."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".cache"
_FETCH_SECONDS = 300

Say = Callable[[str], None]


class ProgramError(Exception):
    """A program cannot be had or does not run. The message is for people; ``log`` is what the program itself said."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class _NotFetched(ProgramError):
    """What apt did not do: its lists of packages may be missing or old."""


@dataclass(frozen=True)
class Program:
    """A program's file, and the folders of libraries that this machine does not have where it looks for them."""

    path: Path
    libraries: tuple[Path, ...] = ()
    ask: str = "--version"
    answers: int = 0

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
                [str(self.path), self.ask],
                capture_output=True, text=True, check=False, env=self.environment(), stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            return str(error)
        return None if result.returncode == self.answers else result.stderr + result.stdout


def tell(line: str) -> None:
    """A line for people; standard output is for figures."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


@dataclass(frozen=True)
class Packaged:
    """A program that Debian packages. ``needs``: what the names of the packages begin with that it consists of.

    ``ask`` is the option that makes it say its version and end, with the status ``answers``.
    """

    title: str
    binary: str
    package: str
    needs: tuple[str, ...]
    install: str
    ask: str = "--version"
    answers: int = 0

    def find(self, cache: Path = CACHE, *, say: Say = tell) -> Program:
        """The program, fetched if need be. Callers at once fetch once; the others wait."""
        installed = shutil.which(self.binary)
        if installed is not None:
            return Program(Path(installed).resolve(), (), self.ask, self.answers)
        cache = cache / self.package
        if self.unpacked(cache).problem() is not None:
            with _lock(cache):
                if self.unpacked(cache).problem() is not None:
                    self._fetch(cache, say)
        return self.unpacked(cache)

    def unpacked(self, cache: Path) -> Program:
        """Where its packages were unpacked, or will be."""
        usr = cache.resolve() / "root" / "usr"
        folder = next((usr / name for name in ("bin", "sbin") if (usr / name / self.binary).exists()), usr / "bin")
        libraries = tuple(sorted((usr / "lib").glob("*-linux-gnu*")))
        return Program(folder / self.binary, libraries, self.ask, self.answers)

    def _fetch(self, cache: Path, say: Say) -> None:
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise ProgramError(
                    f"this machine has no {self.binary}, and no {tool} to fetch one with. {self.install}"
                )
        # Made beside and renamed, so that an interrupted download leaves nothing that looks whole.
        partial = cache.resolve() / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "packages").mkdir(parents=True)
        say(f"==> Getting {self.title} from Debian's packages (some 2 MB, once)")
        try:
            self._download(partial / "packages", ())
        except _NotFetched:
            say("    the lists of packages of this machine are missing or old: getting them (some 15 MB)")
            self._download(partial / "packages", self._own_lists(partial))
        for package in (partial / "packages").glob("*.deb"):
            self._run("dpkg-deb", "--extract", str(package), str(partial / "root"))
        shutil.rmtree(cache / "root", ignore_errors=True)
        (partial / "root").rename(cache / "root")
        shutil.rmtree(partial)
        problem = self.unpacked(cache).problem()
        if problem is not None:
            raise ProgramError(f"the {self.binary} of Debian's packages does not run here. {self.install}", problem)
        say(f"==> {self.title} is in {cache / 'root'}")

    def _download(self, folder: Path, options: Sequence[str]) -> None:
        """Get the packages of the program and of those of its libraries that this machine does not have."""
        plan = self._run("apt-get", *options, "--simulate", "--no-install-recommends", "install", self.package)
        wanted = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
        self._run(
            "apt-get", *options, "download", *(name for name in wanted if name.startswith(self.needs)), cwd=folder
        )

    def _own_lists(self, folder: Path) -> list[str]:
        """Get lists of packages that need no root; returns the options that make apt read them."""
        options = []
        for setting, name in (("Dir::State::Lists", "lists"), ("Dir::Cache", "cache")):
            (folder / name / "partial").mkdir(parents=True)
            options += ["-o", f"{setting}={folder / name}"]
        self._run("apt-get", *options, "update")
        return options

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        try:
            result = subprocess.run(
                command,
                capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL, timeout=_FETCH_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ProgramError(
                f"{command[0]} was not done after {_FETCH_SECONDS} s; check the network. {self.install}"
            ) from error
        if result.returncode != 0:
            raise _NotFetched(
                f"Debian's packages of {self.title} cannot be had; check the network and apt's sources. {self.install}",
                result.stderr or result.stdout,
            )
        return result.stdout


@contextmanager
def _lock(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
