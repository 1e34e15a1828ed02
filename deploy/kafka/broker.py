"""The broker as a process of ours: format its folder, start, kill, stop, and find one that was left behind."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from deploy.kafka.jars import KafkaError, fetch, java
from deploy.kafka.protocol import choose_port, wait_until_answering
from deploy.kafka.settings import CLUSTER_ID, SETTINGS, listening
from deploy.postgres.account import Account
from deploy.postgres.server import is_free

# A small heap, one collector thread and one compiler: it starts in two seconds and leaves the machine to others.
_JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Dlog4j2.level=WARN")


class PortTaken(KafkaError):
    """Somebody else listens where the broker should."""


class Broker:
    """One broker with all it keeps in ``folder``; it can be stopped or killed and started again, on the same port.

    On Linux it ends with the thread that started it, so that no test leaves one behind.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder.resolve()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port or self._known().get("port") or choose_port()

    @property
    def bootstrap_servers(self) -> str:
        """Where clients find it."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What it said since its last start: warnings and worse."""
        return self.folder / "kafka.log"

    def start(self, *, timeout: float = 60) -> None:
        """Start it and wait until it answers. One that lost its owner is replaced; one that has an owner is an error."""
        self._replace_left_behind()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not is_free(self.port):
            raise PortTaken(f"port {self.port} of 127.0.0.1 is taken by another program")
        jars, program = fetch(), java()
        configuration = self._configure()
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(program, jars, configuration)
        self._process = self._launch([*_command(program, jars, self.folder), "kafka.Kafka", str(configuration)])
        self._remember(self._process.pid)
        try:
            wait_until_answering(self.port, gone=lambda: self.status() is not None, timeout=timeout)
        except BaseException as error:
            self.kill()
            if isinstance(error, KafkaError):
                error.log = self.log.read_text(errors="replace")
            raise

    def stop(self, *, timeout: float = 30) -> None:
        """Stop it cleanly and wait until it is gone; killed when it takes too long."""
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL, 10)

    def status(self) -> int | None:
        """None while it runs; otherwise how it ended (minus the signal), or 0 when it was never started."""
        return 0 if self._process is None else self._process.poll()

    def wait(self) -> int:
        """Wait until it ends, for whatever reason."""
        return 0 if self._process is None else self._process.wait()

    def running(self) -> psutil.Process | None:
        """The living broker of this folder, whoever started it."""
        try:
            process = psutil.Process(self._known()["pid"])
            alive = process.status() != psutil.STATUS_ZOMBIE and str(self._configuration) in process.cmdline()
        except (KeyError, psutil.Error):
            return None
        return process if alive else None

    def _end(self, how: signal.Signals, timeout: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _replace_left_behind(self) -> None:
        process = self.running()
        if process is None:
            return
        owner = self._known().get("owner", 0)
        if psutil.pid_exists(owner):
            raise KafkaError(f"a broker already runs in {self.folder}: {self.bootstrap_servers} (of process {owner})")
        with suppress(psutil.NoSuchProcess):
            process.terminate()
            process.wait(30)

    def _launch(self, command: list[str]) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in our terminal is for us, who then stop it.
        wrapped = Account().command(command, cwd=self.folder, die_with_parent=signal.SIGTERM)
        with self.log.open("wb") as log:
            return subprocess.Popen(
                wrapped, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(), start_new_session=True
            )

    def _format(self, program: Path, jars: Path, configuration: Path) -> None:
        command = [*_command(program, jars, self.folder), "kafka.tools.StorageTool", "format"]
        command += ["--cluster-id", CLUSTER_ID, "--config", str(configuration)]
        shutil.rmtree(self.folder / "data", ignore_errors=True)  # half formatted
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, env=_environment(), stdin=subprocess.DEVNULL
        )
        if result.returncode != 0:
            raise KafkaError("the broker's folder could not be formatted", result.stdout + result.stderr)

    def _configure(self) -> Path:
        scratch = self.folder / "tmp"  # what killed brokers unpacked there goes with the next start
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        places = listening(self.bootstrap_servers, f"127.0.0.1:{choose_port()}", self.bootstrap_servers)
        lines = (SETTINGS | places | {"log.dirs": str(self.folder / "data")}).items()
        self._configuration.write_text("".join(f"{name}={value}\n" for name, value in lines))
        return self._configuration

    @property
    def _configuration(self) -> Path:
        return self.folder / "server.properties"

    def _known(self) -> Mapping[str, int]:
        try:
            known: dict[str, int] = json.loads((self.folder / "broker.json").read_text())
        except (OSError, ValueError):
            return {}
        return known

    def _remember(self, pid: int) -> None:
        (self.folder / "broker.json").write_text(json.dumps({"pid": pid, "port": self.port, "owner": os.getpid()}))


def _command(program: Path, jars: Path, folder: Path) -> list[str]:
    return [str(program), *_JVM, f"-Djava.io.tmpdir={folder / 'tmp'}", "-cp", f"{jars.resolve()}/*"]


def _environment() -> dict[str, str]:
    """No option of another Java program, no secret of ours."""
    return {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ} | {
        "LC_ALL": "C.UTF-8"
    }
