"""The broker's jars: fetched once through Maven, with its own mirrors and checksums, into ``.cache/``."""

import fcntl
import os
import re
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POM = Path(__file__).with_name("pom.xml")
VERSION: str = re.findall(r"<kafka\.version>(.*)</kafka\.version>", POM.read_text())[0]
CACHE = Path(__file__).parents[2] / ".cache" / "kafka"
NEWEST_TOO_OLD_JAVA = 16
_INSTALL = (
    "Debian or Ubuntu: apt install default-jre-headless maven; "
    "Fedora: dnf install java-21-openjdk-headless maven; macOS: brew install openjdk maven"
)
_PROGRESS_SECONDS = 3

Say = Callable[[str], None]


class KafkaError(Exception):
    """The broker cannot be had. The message is for people; ``log`` is what the program itself said."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


def java() -> Path:
    """A Java the broker runs on: that of ``JAVA_HOME``, else the one on the PATH."""
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if found is None or not Path(found).exists():
        raise KafkaError(f"Apache Kafka needs Java 17 or newer, and this machine has no Java. {_INSTALL}")
    result = subprocess.run([found, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(?:1\.)?(\d+)', result.stderr + result.stdout)
    if result.returncode != 0 or version is None:
        raise KafkaError(f"Apache Kafka needs Java 17 or newer, and {found} does not work. {_INSTALL}", result.stderr)
    if int(version[1]) <= NEWEST_TOO_OLD_JAVA:
        raise KafkaError(f"Apache Kafka needs Java 17 or newer, and {found} is Java {version[1]}. {_INSTALL}")
    return Path(found).resolve()


def present(cache: Path = CACHE) -> bool:
    """Whether the jars of this very ``pom.xml`` are there."""
    copy = cache / VERSION / "pom.xml"
    return copy.exists() and copy.read_bytes() == POM.read_bytes()


def fetch(cache: Path = CACHE, *, say: Say = print) -> Path:
    """The folder of the jars, fetched if need be. Callers at once fetch once; the others wait."""
    folder = cache / VERSION
    if not present(cache):
        with _lock(cache):
            if not present(cache):
                _fetch(folder, say)
    return folder / "lib"


@contextmanager
def _lock(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch(folder: Path, say: Say) -> None:
    java()  # before Maven: its own words about a missing Java help nobody
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaError(f"the jars of Apache Kafka come through Maven, and this machine has no mvn. {_INSTALL}")
    # Made beside and renamed, so that an interrupted download leaves nothing that looks whole.
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    say(f"==> Getting Apache Kafka {VERSION} through Maven (43 MB, once)")
    command = [
        maven, "--batch-mode", "--strict-checksums", "--file", str(POM),
        f"-DoutputDirectory={(partial / 'lib').resolve()}", "-DincludeScope=runtime", "dependency:copy-dependencies",
    ]  # fmt: skip
    status, said = _follow(command, say)
    if status != 0 or not any((partial / "lib").glob("kafka_*.jar")):
        raise KafkaError("Maven could not get the jars of Apache Kafka; check the network or Maven's mirrors", said)
    shutil.copy(POM, partial / "pom.xml")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    say(f"==> Apache Kafka {VERSION} is in {folder}")


def _follow(command: list[str], say: Say) -> tuple[int, str]:
    """Run Maven, telling now and then how far it is; its status and its last words."""
    last: deque[str] = deque(maxlen=20)
    downloads, told = 0, time.monotonic()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as maven:
        for line in maven.stdout or ():
            last.append(line.rstrip())
            downloads += "Downloaded from" in line and ".jar" in line
            if time.monotonic() - told > _PROGRESS_SECONDS:
                told = time.monotonic()
                say(f"    {downloads} files so far")
    return maven.returncode, "\n".join(line for line in last if "Download" not in line)
