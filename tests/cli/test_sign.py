"""What ``guardian sign`` prints is run by curl, and what arrives is verified as the gateway does it."""

import string
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from shared.signing import v0
from tests.cli.embedded import ROOT
from tests.cli.signing import ENVIRONMENT, SECRET, Signing

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


def test_a_curlrc_changes_nothing(signing: Signing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".curlrc").write_text('header = "Content-Type: text/plain"\ncompressed\nget\nuser-agent = "mine"\n')
    for name in ("HOME", "CURL_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    arrived = signing.send("-d", "{}", "-H", "Accept-Encoding: identity")
    assert (arrived.of("content-type"), arrived.of("accept-encoding"), arrived.content) == ([JSON], ["identity"], b"{}")
    assert arrived.of("user-agent") != ["mine"]
    arrived.check()


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
    assert signing.refusal("-d", "@") == "'@' has no file's name behind it; write -d @FILE"
    for name in (f"@{tmp_path}", f"@{tmp_path}/none", "@/dev/null", "@a\0b"):
        assert signing.refusal("-d", name).endswith("is not a file")
    assert signing.refusal("-d", "x", method="head").startswith("curl sends no content with HEAD")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["http://h/a", "POST"], "the method comes first, and then the URL: guardian sign POST http://127.0.0.1:8099/v1/…"),
        (["https://me:word@h/a", "get"], "the method comes first"),
        (["/v1/contacts", "GET"], "the method comes first"),
        (["http://h/a"], "the method comes first"),
        (["http://h/a", "-d", "{}"], "the method comes first"),
        (["-X", "patch", "http://h/a"], "the method is the first argument, without -X: guardian sign PATCH http://127.0.0.1:8099/v1/…"),
        (["http://h/a", "--request=POST"], "the method is the first argument, without -X: guardian sign POST "),
        (["POST", "http://h/a", "-XPOST"], "the method is the first argument"),
        (["POST", "/v1/contacts"], "'/v1/contacts' is not a whole URL; write http://127.0.0.1:8099/v1/…"),
    ],
)  # fmt: skip
def test_habits_that_are_told_what_to_write(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["sign", *arguments], env=ENVIRONMENT | {"GUARDIAN_PORT": "8099"})
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"guardian: {says}")
    assert result.stderr.count("\n") == 1
    assert "word" not in result.stderr
