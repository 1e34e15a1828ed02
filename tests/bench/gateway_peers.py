"""The processes of ``make bench-gateway``: an nginx that answers at once, and the proxies in front of it."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from deploy.debian import CACHE, Packaged, ProgramError, tell
from deploy.postgres import free_port

CADDY = "github.com/caddyserver/caddy/v2/cmd/caddy@v2.11.9"
NGINX = Packaged("nginx", "nginx", "nginx", ("nginx", "lib"), "Debian or Ubuntu: apt install nginx", "-v")
WRK = Packaged("wrk", "wrk", "wrk", ("wrk", "lib"), "Debian or Ubuntu: apt install wrk", "-v", 1)

_NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; default_type application/json; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {http}
  server {{ listen 127.0.0.1:{port} backlog=2048; location / {{ {location} }} }}
}}
"""
_ANSWER = """return 200 '{"data":[],"has_more":false,"next_cursor":null}';"""
_CADDY = """
{{
  admin off
  auto_https off
  persist_config off
  log {{
    level ERROR
  }}
}}
http://127.0.0.1:{port} {{
  @keyed header Authorization Bearer*
  reverse_proxy @keyed 127.0.0.1:{upstream}
}}
"""


class Peer:
    """A server process, with all it starts."""

    def __init__(self, name: str, command: Sequence[str], port: int, environment: Mapping[str, str]) -> None:
        self.name = name
        self.port = port
        self._process = subprocess.Popen(
            list(command), env=dict(environment), stdin=subprocess.DEVNULL, start_new_session=True
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def _all(self) -> list[psutil.Process]:
        root = psutil.Process(self.pid)
        return [root, *root.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        return sum(times.user + times.system for times in (each.cpu_times() for each in self._all()))

    def resident(self) -> int:
        """Bytes of memory it holds now."""
        return sum(each.memory_info().rss for each in self._all())

    def ready(self, path: str = "/v1/contacts") -> "Peer":
        """Wait until it answers anything."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{self.port}{path}", headers={"authorization": "Bearer x"}, trust_env=False)
                return self
            time.sleep(0.05)
        raise SystemExit(f"{self.name} did not start; what it said is above")

    def stop(self) -> None:
        """End it and all it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


def upstream(folder: Path) -> Peer:
    """The nginx behind all of them: ``return 200``."""
    return _nginx("upstream", folder, "", _ANSWER)


def nginx(folder: Path, target: int) -> Peer:
    """``proxy_pass`` over kept connections."""
    return _nginx(
        "nginx", folder, f"upstream target {{ server 127.0.0.1:{target}; keepalive 64; keepalive_requests 1000000000; }}",
        'proxy_pass http://target; proxy_http_version 1.1; proxy_set_header Connection "";',
    )  # fmt: skip


def _nginx(name: str, folder: Path, http: str, location: str) -> Peer:
    folder.mkdir(parents=True)
    program, port = NGINX.find(), free_port()
    text = _NGINX.format(folder=folder, port=port, http=http, location=location)
    if os.geteuid() == 0:
        text = "user root;" + text  # the default user may not enter the folder
    configuration = folder / "nginx.conf"
    configuration.write_text(text)
    command = [str(program.path), "-p", str(folder), "-c", str(configuration), "-e", str(folder / "error.log")]
    return Peer(name, command, port, program.environment()).ready()


def caddy(folder: Path, target: int) -> Peer:
    """``reverse_proxy`` behind one header match, on one core."""
    folder.mkdir(parents=True)
    port = free_port()
    (folder / "Caddyfile").write_text(_CADDY.format(port=port, upstream=target))
    command = [str(caddy_program()), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    home = {"HOME": str(folder), "PATH": os.environ["PATH"], "GOMAXPROCS": "1"}
    return Peer("caddy", command, port, home).ready()


def caddy_program(cache: Path = CACHE) -> Path:
    """Caddy, built from its Go module the first time."""
    made = cache.resolve() / "caddy" / CADDY.rpartition("@")[2]
    if (made / "caddy").exists():
        return made / "caddy"
    if shutil.which("go") is None:
        raise ProgramError("Caddy is built from its Go module, and this machine has no go. See https://go.dev/dl")
    made.mkdir(parents=True, exist_ok=True)
    with (made / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / "caddy").exists():
            tell(f"==> Building {CADDY} (two minutes, once)")
            made_it = subprocess.run(
                ["go", "install", CADDY], env={**os.environ, "GOBIN": str(made)}, capture_output=True, text=True, check=False
            )  # fmt: skip
            if made_it.returncode != 0:
                raise ProgramError("Caddy cannot be built here; check the network.", made_it.stderr)
    return made / "caddy"


def fastapi(client: str, target: int) -> Peer:
    """FastAPI over ``aiohttp`` or ``httpx``."""
    port = free_port()
    command = [
        sys.executable, "-m", "tests.bench.peer_proxies", client, str(port), f"http://127.0.0.1:{target}",
    ]  # fmt: skip
    return Peer(f"fastapi+{client}", command, port, os.environ).ready()
