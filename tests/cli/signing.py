"""A server that keeps what arrives, and somebody who signs by the command line and pastes what is printed."""

from __future__ import annotations

import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from shared.signing import v1
from shared.signing.keys import SharedSecret, Verifier
from shared.signing.message import Message, Pair

SECRET = SharedSecret("01982ca6-3a5f-7c31-9d0e-5c1f0b6f2a44", b"gdns_word")
ENVIRONMENT = {
    "GUARDIAN_API_KEY": "gdn_live_key",
    "GUARDIAN_SIGNING_KEY_ID": SECRET.key_id,
    "GUARDIAN_SIGNING_SECRET": SECRET.secret.decode(),
}


@dataclass
class Arrived:
    """A request, to the byte."""

    line: str
    headers: list[Pair]
    content: bytes

    def of(self, name: str) -> list[str]:
        """The values of a field."""
        return [value.decode("latin-1") for key, value in self.headers if key == name.encode()]

    def message(self) -> Message:
        method, target, _ = self.line.split(" ")
        path, _, query = target.encode().partition(b"?")
        return Message(method, path, query, self.headers, scheme="http")

    def check(self, key: Verifier = SECRET) -> None:
        """As the gateway does; raises ``Refused``."""
        verified = v1.verify(self.message(), {key.key_id: key}.get, time.time())
        assert (verified.digest is not None) == bool(self.of("content-type"))
        if verified.digest is not None:
            verified.digest.update(self.content)
            verified.digest.check()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.arrived: list[Arrived] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        line = self.rfile.readline().decode("latin-1").rstrip("\r\n")
        headers = []
        while (header := self.rfile.readline()) not in {b"\r\n", b""}:
            name, _, value = header.partition(b":")
            headers.append((name.lower(), value.strip(b" \t\r\n")))
        length = int(dict(headers).get(b"content-length", b"0"))
        self.server.arrived.append(Arrived(line, headers, self.rfile.read(length)))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n")
        self.wfile.write(b"" if line.startswith("HEAD ") else b"done\n")


@dataclass
class Signing:
    """Signs by the command line, and pastes what it prints in another folder."""

    server: _Server
    folder: Path
    environment: dict[str, str] = field(default_factory=lambda: dict(ENVIRONMENT))

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def send(self, *arguments: str, url: str = "/v1/contacts", method: str = "POST") -> Arrived:
        """What arrived."""
        result = CliRunner().invoke(app, ["sign", method, self.base + url, *arguments], env=self.environment)
        assert result.exit_code == 0, result.output
        return self.paste(result.stdout_bytes)

    def paste(self, command: bytes) -> Arrived:
        assert command.startswith(b"curl -q -sS ")
        shell = subprocess.run(
            ["sh", "-s"], input=command, cwd=self.folder, capture_output=True, timeout=30, check=False
        )
        assert (shell.returncode, shell.stderr) == (0, b"")
        (arrived,) = self.server.arrived
        return arrived

    def refusal(self, *arguments: str, url: str = "http://127.0.0.1:8080/v1/contacts", method: str = "POST") -> str:
        """The sentence in which it says why not."""
        result = CliRunner().invoke(app, ["sign", method, url, *arguments], env=self.environment)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("guardian: ")
        assert result.stderr.count("\n") == 1
        return result.stderr.removeprefix("guardian: ").strip()


@pytest.fixture
def signing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Signing]:
    for name in ("GUARDIAN_SIGNING_KEY_FILE", "GUARDIAN_PORT"):
        monkeypatch.delenv(name, raising=False)
    other = tmp_path / "other"
    other.mkdir()
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Signing(server, other)
        server.shutdown()
        thread.join()
