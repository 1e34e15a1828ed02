"""The server as a process of ours, reached through a Unix socket alone: nobody else on the machine meets it."""

import signal
import socket
import subprocess
import time
from pathlib import Path

from deploy.debian import Packaged, ProgramError
from deploy.postgres.account import Account

REDIS = Packaged(
    "Redis", "redis-server", "redis-server", ("redis", "lib"),
    "Debian or Ubuntu: apt install redis-server; Fedora: dnf install redis; macOS: brew install redis",
)  # fmt: skip
_SOCKET_PATH_LIMIT = 103  # bytes a Unix socket's path may have everywhere (macOS has the least)


class Redis:
    """A Redis with its defaults, except that it keeps nothing on disk and so loses no time to that.

    On Linux it ends with the thread that started it, so that no run leaves one behind.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """Where clients find it."""
        return self.folder / "redis.sock"

    @property
    def log(self) -> Path:
        """What it said since its last start."""
        return self.folder / "redis.log"

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, *, timeout: float = 20) -> None:
        """Start it and wait until it answers; the first start ever fetches the program."""
        if len(bytes(self.socket)) > _SOCKET_PATH_LIMIT:
            raise ProgramError(f"{self.socket} is too long a path for a socket; choose a shorter folder")
        if self.answers():
            raise ProgramError(f"a Redis already runs in {self.folder}")
        found = REDIS.find()
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
        }
        command = [str(found.path), *(word for name, value in settings.items() for word in (f"--{name}", value))]
        # A session of its own: Ctrl-C in our terminal is for us, who then stop it.
        wrapped = Account().command(command, cwd=self.folder, die_with_parent=signal.SIGTERM)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                wrapped, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=found.environment(),
                start_new_session=True,
            )  # fmt: skip
        self._wait(timeout)

    def _wait(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        try:
            while not self.answers():
                if self.pid is None:
                    raise ProgramError("Redis stopped while starting", self.log.read_text(errors="replace"))
                if time.monotonic() > deadline:
                    said = self.log.read_text(errors="replace")
                    raise ProgramError(f"Redis did not answer within {timeout:.0f} s", said)
                time.sleep(0.01)
        except BaseException:
            self.kill()
            raise

    def answers(self) -> bool:
        """Whether a server answers on the socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            try:
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(7, socket.MSG_WAITALL) == b"+PONG\r\n"
            except OSError:
                return False

    def stop(self) -> None:
        """Stop it and wait until it is gone; killed when it takes too long."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.socket.unlink(missing_ok=True)
