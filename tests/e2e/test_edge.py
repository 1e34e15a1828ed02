"""The parser table in front of the finished gateway: what is refused at the front door, and that nothing of it is done.

Every row is a request that would have made a contact, with a key that may, and most have another one behind them that
would make one more. ``test_edge_requests.py`` has what passes.
"""

import time

import pytest

from shared.auth import api_key
from tests.e2e.wire import BODY, CHUNKED, CLOSE, END, FIELDS, GET, LENGTH, LINE, POST, WHOLE, Door, chunk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

N = len(BODY)
HOSTLESS = LINE + FIELDS.replace(b"Host: a\r\n", b"")
AS_CHUNKS = POST + CHUNKED + b"\r\n"
MANY = b"v" * 70_000

SMUGGLED = POST + CLOSE + LENGTH + b"\r\n" + BODY
"""What stands behind each row; were it done, its answer would come at once."""
M = len(SMUGGLED) - len(b"KEY") + api_key.LENGTH


def coded(*lines: bytes) -> bytes:
    """A chunked request with these lines instead of its Transfer-Encoding, and a good one behind it."""
    return POST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + chunk(BODY) + END + SMUGGLED


def sized(length: bytes) -> bytes:
    """A request with this Content-Length, and a good one behind it."""
    return POST + b"Content-Length: " + length + b"\r\n\r\n" + BODY + SMUGGLED


def refused(door: Door, data: bytes, status: int = 400, code: str = "bad_request") -> None:
    """It gets one answer, which is this problem; the connection is closed; nothing was done."""
    with door.untouched():
        (answer,) = door.say(data)
        assert answer.refusal == (status, code)
        assert answer.closes


def test_without_a_fault_it_would_have_been_done(door: Door) -> None:
    with door.connect() as wire:
        wire.send(WHOLE + AS_CHUNKS + chunk(BODY) + END)
        assert [wire.answer().status, wire.answer().status] == [201, 201]
    door.makes("smuggled", "smuggled")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n" + END + SMUGGLED, id="cl.te-that-agree"),
        pytest.param(POST + b"Content-Length: %d\r\n" % (M + 5) + CHUNKED + b"\r\n" + END + SMUGGLED, id="cl.te"),
        pytest.param(POST + CHUNKED + b"Content-Length: 4\r\n\r\n%x\r\n" % M + SMUGGLED + b"\r\n" + END, id="te.cl"),
        pytest.param(coded(b"Transfer-Encoding: xchunked"), id="xchunked"),
        pytest.param(coded(b"Transfer-Encoding: xchunked", b"Content-Length: 4"), id="xchunked-and-length"),
        pytest.param(coded(b"Transfer-Encoding : chunked"), id="space-before-the-colon"),
        pytest.param(coded(b"Transfer-Encoding\t: chunked"), id="tab-before-the-colon"),
        pytest.param(coded(b"Transfer-Encoding\xa0: chunked"), id="nbsp-before-the-colon"),
        pytest.param(coded(b"Transfer-Encoding:\x0bchunked"), id="vertical-tab"),
        pytest.param(coded(b"Transfer-Encoding:\x0cchunked"), id="form-feed"),
        pytest.param(coded(b"Transfer-Encoding: \x00chunked"), id="nul"),
        pytest.param(coded(b"Transfer-Encoding: \x85chunked"), id="next-line"),
        pytest.param(coded(b"Transfer-Encoding: chunked\xa0"), id="nbsp-behind"),
        pytest.param(coded(b"Transfer-Encoding: chun\xe2\x84\xaaed"), id="kelvin-sign"),
        pytest.param(coded(b'Transfer-Encoding: "chunked"'), id="quoted"),
        pytest.param(coded(b"Transfer-Encoding: chunked;q=1"), id="parameter"),
        pytest.param(coded(b"Transfer-Encoding:"), id="empty"),
        pytest.param(coded(b"Transfer-Encoding: identity"), id="identity"),
        pytest.param(coded(b"Transfer-Encoding: gzip, chunked"), id="gzip-chunked"),
        pytest.param(coded(b"Transfer-Encoding: chunked, identity"), id="chunked-identity"),
        pytest.param(coded(b"Transfer-Encoding: identity, chunked"), id="identity-chunked"),
        pytest.param(coded(b"Transfer-Encoding: chunked, chunked"), id="chunked-chunked"),
        pytest.param(coded(b"Transfer-Encoding: ,chunked"), id="comma-chunked"),
        pytest.param(coded(b"Transfer-Encoding: chunked,"), id="chunked-comma"),
        pytest.param(coded(*[b"Transfer-Encoding: chunked"] * 2), id="chunked-twice"),
        pytest.param(coded(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"), id="chunked-then-identity"),
        pytest.param(
            coded(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"),
            id="identity-then-chunked",
        ),
        pytest.param(
            coded(b"Transfer-Encoding: gzip", b"transfer-encoding: chunked"), id="gzip-then-chunked"
        ),
        pytest.param(coded(b"X: 1", b" Transfer-Encoding: chunked"), id="folded-coding"),
        pytest.param(coded(b"Transfer-Encoding:", b" chunked"), id="folded-value"),
        pytest.param(coded(b"X: 1\nTransfer-Encoding: chunked"), id="coding-behind-lf"),
        pytest.param(coded(b"X: 1\rTransfer-Encoding: chunked"), id="coding-behind-cr"),
        pytest.param((POST + CHUNKED).replace(b"/1.1", b"/1.0") + b"\r\n" + chunk(BODY) + END + SMUGGLED, id="http-1.0"),
        pytest.param(coded(b"Connection: Transfer-Encoding", b"Transfer-Encoding: x"), id="hop-by-hop"),
    ],
)  # fmt: skip
def test_smuggling_by_transfer_encoding(door: Door, data: bytes) -> None:
    refused(door, data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(POST + LENGTH + LENGTH + b"\r\n" + BODY + SMUGGLED, id="equal-twice"),
        pytest.param(POST + b"content-length: 0\r\n" + LENGTH + b"\r\n" + BODY + SMUGGLED, id="two"),
        pytest.param(sized(b"%d, %d" % (N, N)), id="list"),
        pytest.param(sized(b"6, 6"), id="list-of-others"),
        pytest.param(sized(b"%d," % N), id="comma"),
        pytest.param(sized(b"+%d" % N), id="plus"),
        pytest.param(sized(b"-%d" % N), id="negative"),
        pytest.param(sized(b"0x%x" % N), id="hexadecimal"),
        pytest.param(sized(b"%d.0" % N), id="fraction"),
        pytest.param(sized(b"2_5"), id="underscore"),
        pytest.param(sized(b"1e1"), id="exponent"),
        pytest.param(sized(b"%d %d" % (N, N)), id="space"),
        pytest.param(sized(b"\x0b%d" % N), id="vertical-tab"),
        pytest.param(sized(b"%d\x00" % N), id="nul"),
        pytest.param(sized(b"\xb2\xb5"), id="superscript"),
        pytest.param(sized(b""), id="empty"),
        pytest.param(sized(b"9" * 20), id="20-digits"),
        pytest.param(sized(b"%d" % (2**64 + N)), id="over-64-bits"),
        pytest.param(sized(b"\r\n %d" % N), id="folded"),
        pytest.param(sized(b"0" * 30 + b"%d" % N), id="zeros-before-it"),
        pytest.param(POST + LENGTH.replace(b":", b" :") + b"\r\n" + BODY + SMUGGLED, id="space-before-the-colon"),
        pytest.param(POST + b"Content-Length\x00: %d\r\n\r\n" % N + BODY + SMUGGLED, id="nul-in-the-name"),
    ],
)
def test_smuggling_by_content_length(door: Door, data: bytes) -> None:
    refused(door, data)


@pytest.mark.parametrize("length", [b"9" * 19, b"%d" % (2**64 - 1), b"%d" % 2**63])
def test_huge_lengths_are_too_large(door: Door, length: bytes) -> None:
    refused(door, sized(length), 413, "content_too_large")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"%x \r\n%b\r\n" % (N, BODY) + END, id="space-behind-the-size"),
        pytest.param(b" %x\r\n%b\r\n" % (N, BODY) + END, id="space-before-the-size"),
        pytest.param(b"0x%x\r\n%b\r\n" % (N, BODY) + END, id="size-0x"),
        pytest.param(b"+%x\r\n%b\r\n" % (N, BODY) + END, id="size-plus"),
        pytest.param(b"-%x\r\n%b\r\n" % (N, BODY) + END, id="size-negative"),
        pytest.param(b"1_9\r\n%b\r\n" % BODY + END, id="size-underscore"),
        pytest.param(b"1g\r\n%b\r\n" % BODY + END, id="size-no-digit"),
        pytest.param(b"\r\n%b\r\n" % BODY + END, id="size-empty"),
        pytest.param(b"1%016x\r\n%b\r\n" % (N, BODY) + END, id="size-over-64-bits"),
        pytest.param(b"%x\n%b\r\n" % (N, BODY) + END, id="lf-behind-the-size"),
        pytest.param(b"%x\r%b\r\n" % (N, BODY) + END, id="cr-behind-the-size"),
        pytest.param(b"%x\r\n%b\n" % (N, BODY) + END, id="lf-behind-the-data"),
        pytest.param(b"%x\r\n%b" % (N, BODY) + END, id="nothing-behind-the-data"),
        pytest.param(b"%x\r\n%bXX" % (N, BODY) + END, id="junk-behind-the-data"),
        pytest.param(b"%x;a\nb\r\n%b\r\n" % (N, BODY) + END, id="lf-in-an-extension"),
        pytest.param(b"%x;%b\r\n%b\r\n" % (N, MANY, BODY) + END, id="70-kB-extension"),
        pytest.param(chunk(BODY) + b"0\n\n", id="lf-at-the-end"),
        pytest.param(chunk(BODY) + b"0\r\nX: %b\r\n\r\n" % MANY, id="70-kB-trailer"),
        pytest.param(chunk(BODY) + b"0\r\nX: 1\n\r\n", id="lf-in-a-trailer"),
        pytest.param(chunk(BODY) + b"0\r\nX: 1\r\n y\r\n\r\n", id="folded-trailer"),
        pytest.param(chunk(BODY) + b"0\r\nX\x00: 1\r\n\r\n", id="nul-in-a-trailer"),
        pytest.param(chunk(BODY) + b"0\r\nContent-Length: 5\r\n\r\n", id="length-in-a-trailer"),
        pytest.param(chunk(BODY) + b"0\r\n" + CHUNKED + b"\r\n", id="coding-in-a-trailer"),
    ],
)
def test_smuggling_by_chunks(door: Door, content: bytes) -> None:
    refused(door, AS_CHUNKS + content + SMUGGLED)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(WHOLE.replace(b"\r\n", b"\n"), id="lf-everywhere"),
        pytest.param(WHOLE.replace(b"\r\n", b"\r"), id="cr-everywhere"),
        pytest.param(WHOLE.replace(b"/1.1\r\n", b"/1.1\n"), id="lf-behind-the-request-line"),
        pytest.param(WHOLE.replace(b"Host: a\r\n", b"Host: a\n"), id="lf-behind-a-field"),
        pytest.param(WHOLE.replace(b"Host: a\r\n", b"Host: a\r\r\n"), id="cr-cr-lf"),
        pytest.param(WHOLE.replace(b"\r\n\r\n", b"\r\n\n"), id="lf-at-the-end"),
        pytest.param(POST + b"X: 1\r\n folded\r\n" + LENGTH + b"\r\n" + BODY, id="obs-fold"),
        pytest.param(POST + b"X: 1\r\n\tfolded\r\n" + LENGTH + b"\r\n" + BODY, id="obs-fold-tab"),
        pytest.param(WHOLE.replace(b"Host", b" Host"), id="space-before-the-first-field"),
        pytest.param(POST + b"X: a\x00b\r\n" + LENGTH + b"\r\n" + BODY, id="nul-in-a-value"),
        pytest.param(POST + b"X: a\x7fb\r\n" + LENGTH + b"\r\n" + BODY, id="del-in-a-value"),
        pytest.param(POST + b"X\x01: a\r\n" + LENGTH + b"\r\n" + BODY, id="control-in-a-name"),
        pytest.param(POST + b"X y: a\r\n" + LENGTH + b"\r\n" + BODY, id="space-in-a-name"),
        pytest.param(POST + b"X\r\n" + LENGTH + b"\r\n" + BODY, id="no-colon"),
        pytest.param(POST + b": x\r\n" + LENGTH + b"\r\n" + BODY, id="no-name"),
        pytest.param(HOSTLESS + LENGTH + b"\r\n" + BODY, id="no-host"),
        pytest.param(WHOLE.replace(b"/1.1", b"/1.0").replace(b"Host: a\r\n", b""), id="no-host-in-1.0"),
        pytest.param(POST + b"host: a\r\n" + LENGTH + b"\r\n" + BODY, id="same-host-twice"),
        pytest.param(POST + b"Host: b\r\n" + LENGTH + b"\r\n" + BODY, id="two-hosts"),
        pytest.param(WHOLE.replace(b"/v1", b"http://evil/v1"), id="absolute-form"),
        pytest.param(WHOLE.replace(b"/v1", b"http://a/v1"), id="absolute-form-of-the-host"),
        pytest.param(WHOLE.replace(b"/v1/contacts", b"*"), id="asterisk-form"),
        pytest.param(WHOLE.replace(b"POST /v1/contacts", b"CONNECT a:443"), id="authority-form"),
        pytest.param(WHOLE.replace(b"/v1", b"v1"), id="no-slash"),
        pytest.param(WHOLE.replace(b"/v1", b"\\v1"), id="backslash-in-its-place"),
        pytest.param(WHOLE.replace(b"/v1/contacts", b""), id="no-target"),
        pytest.param(WHOLE.replace(b"/contacts", b"/contacts/\xc3\xa9"), id="raw-utf-8"),
        pytest.param(WHOLE.replace(b"/contacts", b"/contacts\x00"), id="nul-in-the-target"),
        pytest.param(WHOLE.replace(b"/contacts", b"/contacts x"), id="space-in-the-target"),
        pytest.param(WHOLE.replace(b"/contacts", b"/contacts\t"), id="tab-in-the-target"),
        pytest.param(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", id="proxy-protocol"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="tls"),
    ],
)
def test_a_broken_head(door: Door, data: bytes) -> None:
    refused(door, data + SMUGGLED)


@pytest.mark.parametrize(
    "host",
    [
        b"", b"-", b"a b", b"a,b", b"user@a", b"a/b", b"a:port", b"a:123456", b"1.2.3.4:80:80", b"[::1", b"http://a",
        b"a?b", b"a#b", b"a\\b", b"a%00", b"a;b", b"*", b"..", b"\xc3\xa9", b"a" * 300,
    ],
)  # fmt: skip
def test_a_host_that_is_none(door: Door, host: bytes) -> None:
    refused(door, HOSTLESS + b"Host: " + host + b"\r\n" + CLOSE + LENGTH + b"\r\n" + BODY)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../admin/x", "/v1/./contacts", "/v1/contacts/..", "/v1/contacts/.", "/../v1/contacts",
        "/v1/%2e%2e/admin%2fx", "/v1/.%2E/contacts", "/%2e/v1/contacts", "/v1/contacts/%252e%252e/x",
        "/v1/contacts;x/..;/", "/v1/contacts/..;x", "/v1/contacts%2f", "/v1/contacts/%252f",
        "/v1\\contacts", "/v1/%5ccontacts", "/v1/contacts%5C..", "/v1/contacts/%255c",
        "/v1/contacts/%00", "/v1/contacts/%0d%0aX:1", "/v1/contacts/%09", "/v1/contacts/%7f",
        "/v1/contacts/%ff", "/v1/contacts/%c0%ae", "/v1/contacts/%ed%a0%80", "/v1/contacts/%f5%80%80%80",
        "/v1/contacts/%zz", "/v1/contacts/%4", "/v1/contacts%", "/v1/contacts/%u002e", "/v1/contacts#x",
        "//v1/contacts", "//a/v1/contacts",
        "/v1//contacts", "/v1/contacts//x",
        "/v1/contacts?limit=1#&limit=x",
    ],
)  # fmt: skip
def test_an_ambiguous_path_before_routing_and_authorisation(door: Door, path: str) -> None:
    data = b"POST " + path.encode() + b" HTTP/1.1\r\n" + FIELDS + CLOSE + LENGTH + b"\r\n" + BODY
    with door.untouched():
        answers = [door.ask(data), door.ask(data, b"unknown"), door.ask(data.replace(b"Authorization", b"X"))]
        assert [answer.refusal for answer in answers] == [(400, "invalid_path")] * 3
        assert len({answer.json["detail"] for answer in answers}) == 1, "who asks makes no difference"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(POST + b"X: %b\r\n" % MANY + LENGTH + b"\r\n" + BODY, id="70-kB-value"),
        pytest.param(POST + b"X: %b" % MANY, id="70-kB-value-unfinished"),
        pytest.param(POST + b"X:%bv\r\n" % (b" " * 70_000), id="70-kB-of-spaces"),
        pytest.param(POST + b"%b: x\r\n" % MANY + LENGTH + b"\r\n" + BODY, id="70-kB-name"),
        pytest.param(POST + b"".join(b"X-%d: v\r\n" % i for i in range(5_000)) + b"\r\n", id="5000-fields"),
        pytest.param(POST + b"X: v\r\n" * 5_000 + b"\r\n", id="5000-times-one-field"),
        pytest.param(POST + LENGTH + b"X: v\r\n" * 97 + b"\r\n" + BODY, id="101-fields"),
        pytest.param(WHOLE.replace(b" HTTP", b"?%b HTTP" % MANY), id="70-kB-query"),
        pytest.param(WHOLE.replace(b" HTTP", b"/%b HTTP" % MANY), id="70-kB-path"),
        pytest.param(WHOLE.replace(b"POST", b"POST" + b" " * 70_000), id="70-kB-behind-the-method"),
        pytest.param(b"\r\n" * 35_000 + SMUGGLED, id="70-kB-of-empty-lines"),
        pytest.param(AS_CHUNKS + chunk(BODY) + b"0\r\n" + b"X: v\r\n" * 200 + b"\r\n", id="200-trailers"),
    ],
)
def test_too_long_a_head(door: Door, data: bytes) -> None:
    refused(door, data + SMUGGLED, 431, "headers_too_large")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        pytest.param(b"POST /v1/contacts HTTP/2.0", 505, id="2.0"),
        pytest.param(b"POST /v1/contacts HTTP/0.9", 505, id="0.9"),
        pytest.param(b"POST /v1/contacts", 505, id="none"),
        pytest.param(b"POST /v1/contacts HTTP/1.2", 400, id="1.2"),
        pytest.param(b"POST /v1/contacts HTTP/3.0", 400, id="3.0"),
        pytest.param(b"POST /v1/contacts HTTP/2", 400, id="2"),
        pytest.param(b"POST /v1/contacts HTTP/1.10", 400, id="1.10"),
        pytest.param(b"POST /v1/contacts HTTP/01.1", 400, id="01.1"),
        pytest.param(b"POST /v1/contacts http/1.1", 400, id="small-letters"),
        pytest.param(b"POST /v1/contacts HTTP/1.1 ", 400, id="space-behind"),
        pytest.param(b"POST /v1/contacts HTTPS/1.1", 400, id="another-protocol"),
        pytest.param(b"PRI * HTTP/2.0", 400, id="preface-with-fields"),
        pytest.param(b"FOO /v1/contacts HTTP/1.1", 400, id="unknown-method"),
        pytest.param(b"post /v1/contacts HTTP/1.1", 400, id="method-in-small-letters"),
        pytest.param(b"_POST /v1/contacts HTTP/1.1", 400, id="method-with-more"),
        pytest.param(b"P\x00ST /v1/contacts HTTP/1.1", 400, id="method-with-nul"),
        pytest.param(b" POST /v1/contacts HTTP/1.1", 400, id="space-before-the-method"),
        pytest.param(b"POST\t/v1/contacts HTTP/1.1", 400, id="tab-behind-the-method"),
        pytest.param(b"SETUP /v1/contacts HTTP/1.1", 400, id="method-of-rtsp"),
        pytest.param(b"X" * 70_000, 400, id="70-kB-method"),
        pytest.param(b"CONNECT /v1/contacts HTTP/1.1", 400, id="connect-to-a-path"),
    ],
)
def test_another_language(door: Door, line: bytes, status: int) -> None:
    code = {400: "bad_request", 505: "http_version_not_supported"}[status]
    refused(door, WHOLE.replace(LINE, line + b"\r\n") + SMUGGLED, status, code)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", 400, id="h2c-preface"),
        pytest.param(b"GET /v1/contacts\r\n\r\n", 505, id="http-0.9"),
    ],
)
def test_another_language_from_the_first_word(door: Door, data: bytes, status: int) -> None:
    (answer,) = door.say(data)
    assert (answer.refusal[0], answer.closes) == (status, True)


@pytest.mark.parametrize("upgrade", ["websocket", "h2c"])
@pytest.mark.parametrize(
    "framing", [LENGTH + b"\r\n" + BODY, CHUNKED + b"\r\n" + chunk(BODY) + END], ids=["length", "chunks"]
)
def test_an_upgrade_with_content(door: Door, upgrade: str, framing: bytes) -> None:
    refused(door, POST + b"Connection: Upgrade\r\nUpgrade: " + upgrade.encode() + b"\r\n" + framing + SMUGGLED)


@pytest.mark.parametrize("method", ["TRACE", "PUT", "DELETE", "PROPFIND", "QUERY", "PURGE", "OPTIONS"])
def test_a_method_that_nobody_offers(door: Door, method: str) -> None:
    refused(door, WHOLE.replace(b"POST", method.encode()).replace(FIELDS, FIELDS + CLOSE), 405, "method_not_allowed")
    data = GET.replace(b"GET", method.encode()).replace(b"KEY", b"secret") + CLOSE + b"X-Secret: 1\r\n\r\n"
    assert b"ecret" not in door.ask(data).body, "nothing is traced back"


def test_nothing_came_later(door: Door) -> None:
    with door.untouched():
        time.sleep(0.5)
