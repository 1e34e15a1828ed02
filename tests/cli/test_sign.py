"""What ``guardian sign`` prints is run by curl, and what arrives is verified as the gateway does it."""

from __future__ import annotations

import socketserver
import string
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from typer.testing import CliRunner

from cli.main import app
from shared.signing import v0, v1
from shared.signing.keys import PublicKey, SharedSecret, Verifier
from shared.signing.message import Message, Pair
from tests.cli.embedded import ROOT

SECRET = SharedSecret("key-1", b"gdns_secret")
ENVIRONMENT = {
    "GUARDIAN_API_KEY": "gdn_live_key",
    "GUARDIAN_SIGNING_KEY_ID": SECRET.key_id,
    "GUARDIAN_SIGNING_SECRET": SECRET.secret.decode(),
}
JSON, TEXT = "application/json", "text/csv"
UNUSUAL = [
    pytest.param('{"name": "O\'Brien", "path": "C:\\\\ $HOME `id` !x"}', id="quotes"),
    pytest.param("two lines\r\n\tand an end\n", id="lines"),
    pytest.param("\n", id="one line end"),
    pytest.param("name@example.com", id="an @ inside"),
    pytest.param("<a", id="less than"),
    pytest.param("a=1&b=+%20", id="form"),
    pytest.param("-d", id="like an option"),
    pytest.param("Zoë 🦊", id="beyond ASCII"),
    pytest.param("", id="nothing"),
]


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
        assert command.startswith(b"curl -sS ")
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
    monkeypatch.delenv("GUARDIAN_SIGNING_KEY_FILE", raising=False)
    other = tmp_path / "other"
    other.mkdir()
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Signing(server, other)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("content", UNUSUAL)
def test_literal_content_arrives_as_it_is(signing: Signing, content: str) -> None:
    arrived = signing.send("-d", content)
    assert arrived.content == content.encode()
    assert (arrived.of("content-type"), arrived.of("content-length")) == ([JSON], [str(len(content.encode()))])
    arrived.check()


@pytest.mark.parametrize(
    "content", [b'{"a": 1}', b"\0\r\n\xff", b"line\n", b"@other", b"", bytes(range(256)) * 1000], ids=range(6)
)
def test_the_bytes_of_a_file_arrive(
    signing: Signing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    (tmp_path / "it's a file").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    arrived = signing.send("-d", "@it's a file")
    assert (arrived.content, arrived.of("content-type")) == (content, [JSON])
    arrived.check()


def test_content_that_is_no_text(signing: Signing) -> None:
    words: list[str | bytes] = [sys.executable, "-m", "cli.main", "sign", "POST", f"{signing.base}/v1/contacts"]
    printed = subprocess.run([*words, "-d", b"\xff\xfe"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, check=True)
    arrived = signing.paste(printed.stdout)
    assert arrived.content == b"\xff\xfe"
    arrived.check()


@pytest.mark.parametrize("content", UNUSUAL)
def test_the_older_scheme(signing: Signing, content: str) -> None:
    del signing.environment["GUARDIAN_SIGNING_KEY_ID"]
    arrived = signing.send("--v0", "-d", content)
    verification = v0.Verification(arrived.message(), SECRET, time.time())
    verification.update(arrived.content)
    verification.check()
    assert not arrived.of("signature-input")


@pytest.mark.parametrize(
    "url",
    [
        "", "/", "?limit=5", "/v1/contacts?", "/a{b,c}/[1-3]?x[]={y}", "/a/./b/../c//d", "/%2e%2E/%zz%", "/a;b=c@d:e?f=/?&g",
        "/" + string.punctuation.replace("#", "") + "?" + string.punctuation.replace("#", ""),
    ],
)  # fmt: skip
def test_a_url_arrives_as_it_is(signing: Signing, url: str) -> None:
    arrived = signing.send(url=url, method="GET")
    assert arrived.line == f"GET {url if url.startswith('/') else '/' + url} HTTP/1.1"
    arrived.check()


@pytest.mark.parametrize("host", ["LOCALHOST", "127.1", "0x7f.0.0.01", "2130706433", "127.0.0.1"])
def test_a_host_arrives_as_it_is(signing: Signing, host: str) -> None:
    port = signing.server.server_address[1]
    result = CliRunner().invoke(app, ["sign", "GET", f"HTTP://{host}:{port}/a"], env=ENVIRONMENT)
    arrived = signing.paste(result.stdout_bytes)
    assert arrived.of("host") == [f"{host}:{port}"]
    arrived.check()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "patch", "M-SEARCH"])
def test_methods_without_content(signing: Signing, method: str) -> None:
    arrived = signing.send(method=method)
    assert (arrived.line, arrived.content) == (f"{method.upper()} /v1/contacts HTTP/1.1", b"")
    assert not arrived.of("content-digest")
    arrived.check()


@pytest.mark.parametrize(
    ("header", "name", "values"),
    [
        ("content-type: text/csv", "content-type", [TEXT]),
        ("CONTENT-TYPE:text/csv", "content-type", [TEXT]),
        ("Host: api.example.com", "host", ["api.example.com"]),
        ("host: api.example.com:80", "host", ["api.example.com:80"]),
        ("Idempotency-Key:  a, b ", "idempotency-key", ["a, b"]),
        ('X-Quoted: it\'s "so" \t$HOME', "x-quoted", ['it\'s "so" \t$HOME']),
        ("X-Colon: a:b", "x-colon", ["a:b"]),
        ("User-Agent: mine", "user-agent", ["mine"]),
    ],
)
def test_headers_arrive_once(signing: Signing, header: str, name: str, values: list[str]) -> None:
    arrived = signing.send("-d", "a,b", "-H", header)
    assert arrived.of(name) == values
    assert arrived.of("authorization") == ["Bearer gdn_live_key"]
    assert len({name for name, _ in arrived.headers}) == len(arrived.headers)
    arrived.check()


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        (["authorization: Bearer x"], "leave the header authorization out: the API key of GUARDIAN_API_KEY is sent"),
        (["Content-Digest: x"], "leave the header Content-Digest out: it is made here"),
        (["Signature: x"], "leave the header Signature out"),
        (["Signature-Input: x"], "leave the header Signature-Input out"),
        (["X-Timestamp: 1"], "leave the header X-Timestamp out"),
        (["X-Signature: 1"], "leave the header X-Signature out"),
        (["Content-Length: 1"], "leave the header Content-Length out: curl sends what fits the content"),
        (["Transfer-Encoding: chunked"], "leave the header Transfer-Encoding out"),
        (["X-A: 1", "x-a: 2"], "the header x-a is given twice; write it once, its values as 'a, b'"),
        (["X-A: "], "the header X-A has no value, and curl would leave it out"),
        (["X-A;"], "'X-A;' is not a header; write 'Name: value'"),
        (["@file"], "'@file' is not a header"),
        (["X A: 1"], "'X A: 1' is not a header"),
        ([": 1"], "': 1' is not a header"),
        (["X-A: Zoë"], "the header X-A has control characters, or letters beyond ASCII; encode them"),
        (["X-A: 1\r\nX-B: 2"], "the header X-A has control characters"),
        (["Host: a b"], "'a b' is not a host"),
    ],
)
def test_headers_that_are_refused(signing: Signing, headers: list[str], says: str) -> None:
    assert signing.refusal(*(word for each in headers for word in ("-H", each))).startswith(says)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://h/a b?c=Zoë\n", "must be percent-encoded; write 'http://h/a%20b?c=Zo%C3%AB%0A'"),
        ("http://h/a\0", "must be percent-encoded; write 'http://h/a%00'"),
        ("http://h/a#b", "a fragment ('#…') is not sent; leave it out, or write '#' as %23"),
        ("http://h/#", "a fragment"),
        (
            "https://me:word@h/a@b?c",
            "the API key says who asks, no name and password in the URL; write 'https://h/a@b?c'",
        ),
        ("h/a", "'h/a' is not a whole URL; write http://127.0.0.1:8080/v1/…"),
        ("ftp://h/a", "is not a whole URL"),
        ("http:///a", "is not a whole URL"),
        ("", "is not a whole URL"),
        ("http://h:99999/", "'h:99999' is not a host, or a host and a port"),
        ("http://h:080/", "'h:080' is not a host"),
        ("http://[::1/", "'[::1' is not a host"),
        ("http://zoë.example/", "write a name beyond ASCII as xn--…"),
        ("http://{a,b}/", "'{a,b}' is not a host"),
    ],
)
def test_urls_that_are_refused(signing: Signing, url: str, says: str) -> None:
    refusal = signing.refusal(url=url)
    assert says in refusal
    assert "word" not in refusal.replace("password", "")


@pytest.mark.parametrize("method", ["FOO BAR", "", "GET\t", "É"])
def test_methods_that_are_refused(signing: Signing, method: str) -> None:
    assert signing.refusal(method=method).endswith("is not a method; write one word, such as POST")


def test_content_that_is_refused(signing: Signing, tmp_path: Path) -> None:
    assert "standard input cannot be signed before" in signing.refusal("-d", "@-")
    for name in ("@", f"@{tmp_path}", f"@{tmp_path}/none", "@/dev/null", "@a\0b"):
        assert signing.refusal("-d", name).endswith("is not a file")
    assert signing.refusal("-d", "x", method="head").startswith("curl sends no content with HEAD")


def _pem(key: PrivateKeyTypes, password: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def test_an_ed25519_key_signs(signing: Signing, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(_pem(key))
    signing.environment["GUARDIAN_SIGNING_KEY_FILE"] = str(tmp_path / "key.pem")
    arrived = signing.send("-d", "{}")
    assert 'alg="ed25519"' in arrived.of("signature-input")[0]
    arrived.check(PublicKey(SECRET.key_id, key.public_key()))
    assert "--v0 signs with a shared secret alone" in signing.refusal("--v0")


def test_files_without_an_ed25519_key(signing: Signing, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    file = tmp_path / "key.pem"
    signing.environment["GUARDIAN_SIGNING_KEY_FILE"] = str(file)
    assert signing.refusal().endswith("which cannot be read: No such file or directory")
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for pem in (_pem(generate_private_key(SECP256R1())), _pem(key, b"password"), public, b"", b"\xff\0"):
        file.write_bytes(pem)
        assert "is not an Ed25519 private key in PEM without a password; openssl genpkey" in signing.refusal()


@pytest.mark.parametrize("options", [[], ["--v0"]], ids=["v1", "v0"])
def test_a_key_in_pem_is_no_secret(signing: Signing, options: list[str]) -> None:
    signing.environment["GUARDIAN_SIGNING_SECRET"] = _pem(Ed25519PrivateKey.generate()).decode()
    refusal = signing.refusal(*options)
    assert refusal.endswith("is not a shared secret; write it to a file, GUARDIAN_SIGNING_KEY_FILE=<file>")


@pytest.mark.parametrize(
    ("name", "path", "field_of_answer"),
    [
        ("GUARDIAN_API_KEY", "/v1/api-keys makes an API key", "key"),
        ("GUARDIAN_SIGNING_KEY_ID", "/v1/api-keys/<id>/signing-keys makes a signing key", "id"),
        ("GUARDIAN_SIGNING_SECRET", "/v1/api-keys/<id>/signing-keys makes a signing key", "secret"),
    ],
)
def test_variables(signing: Signing, name: str, path: str, field_of_answer: str) -> None:
    signing.environment[name] = ""
    refusal = signing.refusal()
    assert refusal.startswith(f"{name} is not set. curl --json '{{")
    assert f"http://127.0.0.1:8080{path}: export its {field_of_answer} as {name}." in refusal
    signing.environment[name] = "shown\n"
    assert signing.refusal().startswith(f"{name} has spaces, control characters")
