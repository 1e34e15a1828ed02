"""What passes the front door: that it is read once and whole, that nothing a client invents comes with it, and sizes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cli.home import with_secret
from shared.auth import IdentitySigner, Principal
from shared.settings import Settings
from tests.e2e.platform import SPLIT, params
from tests.e2e.wire import BODY, CHUNKED, CLOSE, END, FIELDS, GET, LENGTH, POST, WHOLE, Door, Wire, chunk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

LIMIT = 1_048_576


def contact(name: str) -> bytes:
    return b'{"first_name":"%b"}' % name.encode()


def of_length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % len(body) + body


def filled(size: int) -> bytes:
    """A contact that is this long."""
    return contact("filled").ljust(size)


def in_chunks(body: bytes) -> bytes:
    return b"".join(chunk(body[start : start + 8_192]) for start in range(0, len(body), 8_192)) + END


# -- one after the other ---------------------------------------------------------------------------------
def test_pipelined_requests_are_answered_in_order(door: Door) -> None:
    names = [f"p{number}" for number in range(12)]
    with door.connect() as wire:
        for name in names[::2]:
            wire.send(POST + of_length(contact(name)) + GET + b"\r\n")
        wire.send(b"".join(POST + CHUNKED + b"\r\n" + in_chunks(contact(name)) for name in names[1::2]))
        answers = [wire.answer() for _ in range(18)]
    made, listed = [*answers[:12:2], *answers[12:]], answers[1:12:2]
    assert {answer.status for answer in made} == {201}
    assert {answer.status for answer in listed} == {200}
    assert [answer.json["first_name"] for answer in made] == [*names[::2], *names[1::2]]
    counts = [len(answer.json["data"]) for answer in listed]
    assert counts == list(range(counts[0], counts[0] + 6)), "each list has what was made before it"
    door.makes(*names[::2], *names[1::2])


@pytest.mark.parametrize("piece", [1, 7])
def test_however_the_bytes_come(door: Door, piece: int) -> None:
    data = (POST.replace(b"KEY", door.key) + CHUNKED + b"\r\n" + chunk(BODY) + END) * 2
    with door.connect() as wire:
        for start in range(0, len(data), piece):
            wire.send(data[start : start + piece])
        assert [wire.answer().status, wire.answer().status] == [201, 201]
    door.makes("smuggled", "smuggled")


@pytest.mark.parametrize(
    ("line", "key", "status"),
    [
        pytest.param(b"GET /v1/contacts", True, 200, id="read"),
        pytest.param(b"DELETE /v1/contacts", True, 405, id="not-offered"),
        pytest.param(b"POST /v1/contacts", True, 400, id="no-json"),
        pytest.param(b"POST /v1/contacts", False, 401, id="nobody"),
        pytest.param(b"POST /v1/nothing", True, 404, id="nowhere"),
        pytest.param(b"GET /livez", False, 200, id="a-page"),
    ],
)
def test_a_request_inside_a_request_is_content(door: Door, line: bytes, key: bool, status: int) -> None:
    inner = WHOLE.replace(b"KEY", door.key)
    head = line + b" HTTP/1.1\r\n" + (FIELDS if key else b"Host: a\r\n")
    with door.untouched(), door.connect() as wire:
        wire.send(head + of_length(inner))
        assert wire.answer().status == status
        wire.send(GET + CLOSE + b"\r\n")
        assert [answer.status for answer in wire.rest()] == [200]


@pytest.mark.parametrize("first", [b"x", b""], ids=["some", "none"])
def test_an_early_answer_ends_the_connection_not_the_content(door: Door, first: bytes) -> None:
    with door.untouched(), Wire(door.platform.port, b"unknown") as wire:
        inner = WHOLE.replace(b"KEY", door.key)
        wire.send(POST + of_length(first + inner)[: -len(inner)])
        assert wire.answer().refusal == (401, "invalid_api_key")
        wire.send(inner)
        assert wire.rest() == []


def test_who_leaves_in_the_middle_leaves_nothing_behind(door: Door) -> None:
    with door.untouched():
        for rest in (b"\r\n" + BODY[:-1], b"\r\n", b""):
            with door.connect() as wire:
                wire.send(POST + LENGTH + rest)
        for _ in range(20):
            assert [answer.status for answer in door.say(GET + CLOSE + b"\r\n")] == [200]


@pytest.mark.parametrize("between", [b"\r\n", b"\n"], ids=["crlf", "lf"])
def test_an_empty_line_before_a_request_is_skipped(door: Door, between: bytes) -> None:
    answers = door.say(between + WHOLE + between + WHOLE.replace(b"\r\n", b"\r\n" + CLOSE, 1))
    assert [answer.status for answer in answers] == [201, 201]
    door.makes("smuggled", "smuggled")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(POST + CLOSE + LENGTH + b"\r\n" + BODY + WHOLE, id="connection-close"),
        pytest.param(WHOLE.replace(b"/1.1", b"/1.0") + WHOLE, id="http-1.0"),
        pytest.param(WHOLE.replace(b"/1.1\r\n", b"/1.0\r\nConnection: keep-alive\r\n") + WHOLE, id="http-1.0-kept"),
    ],
)
def test_nothing_follows_what_was_to_be_the_last(door: Door, data: bytes) -> None:
    answer = door.ask(data)
    assert (answer.status, answer.closes) == (201, True)
    door.makes("smuggled")


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", b"TLS/1.0"])
def test_no_upgrade_is_offered_and_nothing_follows_it(door: Door, upgrade: bytes) -> None:
    with door.untouched():
        answer = door.ask(GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + upgrade + b"\r\n\r\n" + WHOLE)
    assert (answer.status, answer.closes) == (200, True)


# -- what a client says about itself -----------------------------------------------------------------------
def forged(door: Door) -> bytes:
    """What the gateway would say to the service for somebody of another organisation who may do everything."""
    settings = with_secret(Settings(home=door.platform.home))
    owner = Principal(
        door.platform.demo["organizations"][0]["id"], "user", "forged", frozenset({"contacts:read"}), "session"
    )
    return IdentitySigner(settings.derive_key, "gateway").sign(owner, "crm", time.time())


@pytest.mark.parametrize(
    "field",
    [
        b"Guardian-Identity: FORGED", b"guardian-identity: FORGED\r\nGUARDIAN-IDENTITY: FORGED",
        b"Guardian_Identity: FORGED", b"X-Guardian-Identity: FORGED",
        b"X-Tenant-Id: OTHER", b"x_tenant_id: OTHER", b"x-tenant-id: OTHER\r\nx_tenant_id: OTHER",
        b"X-Organization-Id: OTHER", b"x_organization_id: OTHER",
        b"X-User-Id: USER", b"x_user_id: USER", b"X-Actor-Id: USER\r\nX-Auth-User: USER",
        b"X-Scopes: contacts:read\r\nX-Roles: owner\r\nX-User-Id: USER",
        b"Connection: Guardian-Identity\r\nGuardian-Identity: FORGED", b"Connection: Authorization, Host, X-A",
    ],
)  # fmt: skip
def test_nobody_says_who_he_is_but_by_his_credential(door: Door, field: bytes) -> None:
    other = door.platform.demo["organizations"][0]["id"].encode()
    with door.platform.client() as client:
        client.post("/v1/contacts", json={"first_name": "of another organisation"}).raise_for_status()
    field = field.replace(b"FORGED", forged(door)).replace(b"OTHER", other).replace(b"USER", door.user.encode())
    data = GET + CLOSE + field + b"\r\n\r\n"
    with door.untouched():
        assert [row["first_name"] for row in reversed(door.ask(data).json["data"])] == door.made
        assert door.ask(data, door.weak_key).refusal == (403, "missing_scope")
        assert door.ask(data.replace(b"Authorization", b"X")).refusal == (401, "unauthenticated")
        me = data.replace(b"/v1/contacts?limit=200", b"/v1/me")
        assert door.ask(me).refusal == (403, "user_required")


@pytest.mark.parametrize("late", [b"Authorization: Bearer KEY", b"Guardian-Identity: FORGED"])
def test_nobody_says_it_behind_the_content(door: Door, late: bytes) -> None:
    head = POST.replace(b"Authorization: Bearer KEY\r\n", CLOSE) + CHUNKED
    data = head + b"\r\n" + chunk(BODY) + b"0\r\n" + late.replace(b"FORGED", forged(door)) + b"\r\n\r\n"
    with door.untouched():
        assert door.ask(data).refusal == (401, "unauthenticated")


def test_nobody_has_two_credentials(door: Door) -> None:
    both = FIELDS + b"Authorization: Bearer " + door.weak_key + b"\r\n"
    with door.untouched():
        assert door.ask(WHOLE.replace(FIELDS, CLOSE + both)).refusal == (401, "invalid_api_key")


@pytest.mark.parametrize("named", [b"Content-Length", b"Transfer-Encoding", b"Host", b"Content-Type"])
@pytest.mark.parametrize(
    "framed", [LENGTH + b"\r\n" + BODY, CHUNKED + b"\r\n" + chunk(BODY) + END], ids=["length", "chunks"]
)
def test_what_frames_a_request_is_not_hop_by_hop(door: Door, named: bytes, framed: bytes) -> None:
    assert door.ask(POST + b"Connection: close, " + named + b"\r\n" + framed).status == 201
    door.makes("smuggled")


@pytest.mark.parametrize("door", params(SPLIT), indirect=True)
def test_the_service_would_have_believed_the_forged_identity(door: Door) -> None:
    (port,) = {
        each.laddr.port
        for each in door.platform.process_of("crm").net_connections("inet")
        if each.status == "LISTEN"
    }  # fmt: skip
    with Wire(port, b"none") as wire:
        wire.send(GET + CLOSE + b"Guardian-Identity: " + forged(door) + b"\r\n\r\n")
        assert [answer.status for answer in wire.rest()] == [200]


# -- sizes -------------------------------------------------------------------------------------------------
def test_a_hundred_fields_of_sixteen_kilobytes_pass(door: Door) -> None:
    fields = b"".join(b"X-%d: %b\r\n" % (number, b"v" * 140) for number in range(94))
    assert door.ask(POST + fields + CLOSE + LENGTH + b"X: 1\r\n\r\n" + BODY).status == 201
    door.makes("smuggled")


@pytest.mark.parametrize(
    "framed", [of_length, lambda body: CHUNKED + b"\r\n" + in_chunks(body)], ids=["length", "chunks"]
)
def test_content_at_the_limit_passes_and_a_byte_more_does_not(door: Door, framed: Any) -> None:
    assert door.ask(POST + CLOSE + framed(filled(LIMIT))).status == 201
    door.makes("filled")
    with door.untouched():
        answer = door.ask(POST + framed(filled(LIMIT + 1)) + WHOLE)
        assert answer.refusal == (413, "content_too_large")
        assert (answer.json["limit"], answer.closes) == (LIMIT, True)


@pytest.mark.parametrize("more", [b"", b"Expect: 100-continue\r\n"], ids=["", "expect"])
@pytest.mark.parametrize("key", [None, b"unknown"], ids=["key", "no-key"])
def test_too_much_is_refused_before_it_is_sent(door: Door, more: bytes, key: bytes | None) -> None:
    with door.untouched():
        answer = door.ask(POST + more + b"Content-Length: %d\r\n\r\n" % (LIMIT + 1), key)
    assert (answer.refusal, answer.closes) == ((413, "content_too_large"), True)


def test_who_expects_to_be_told_to_continue_is_told(door: Door) -> None:
    with door.connect() as wire:
        wire.send(POST + CLOSE + b"Expect: 100-continue\r\n" + LENGTH + b"\r\n")
        assert wire.answer().status == 100
        wire.send(BODY)
        assert [answer.status for answer in wire.rest()] == [201]
    door.makes("smuggled")


def test_who_may_not_is_not_told_to_continue(door: Door) -> None:
    with door.untouched():
        answer = door.ask(POST + b"Expect: 100-continue\r\n" + LENGTH + b"\r\n", b"unknown")
    assert answer.refusal == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(b"KEY", b"KEY \t", id="authorization"),
        pytest.param(b"Host: a", b"Host: \ta", id="host-before"),
        pytest.param(b"Host: a", b"Host: a \t", id="host"),
        pytest.param(b"%d\r\n" % len(BODY), b"%d \t\r\n" % len(BODY), id="content-length"),
        pytest.param(LENGTH + b"\r\n" + BODY, b"Transfer-Encoding: \tchunked\r\n\r\n" + in_chunks(BODY), id="coding-before"),
        pytest.param(
            LENGTH + b"\r\n" + BODY, b"Transfer-Encoding: chunked \r\n\r\n" + in_chunks(BODY),
            id="coding",
        ),
    ],
)  # fmt: skip
def test_white_space_around_a_value_is_no_part_of_it(door: Door, before: bytes, after: bytes) -> None:
    answer = door.ask(WHOLE.replace(FIELDS, FIELDS + CLOSE).replace(before, after))
    assert answer.status == 201
    door.makes("smuggled")


# -- content is not the gateway's business -------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        pytest.param(b'{"first_name":"a","first_name":"twice"}', 201, "twice", id="duplicate-names"),
        pytest.param(b"\xef\xbb\xbf" + BODY, 400, "byte order mark", id="bom"),
        pytest.param(b'{"first_name":NaN}', 400, "unexpected character", id="nan"),
        pytest.param(b'{"first_name":-Infinity}', 400, "no digit", id="infinity"),
        pytest.param(b'{"first_name":1e400}', 400, "number is infinity", id="1e400"),
        pytest.param(b'{"first_name":' + b"1" * 100_000 + b"}", 400, "number is infinity", id="100000-digits"),
        pytest.param(b"[" * 100_000, 400, "depth limit", id="deep"),
        pytest.param(b'{"a":' * 100_000, 400, "depth limit", id="deep-objects"),
        pytest.param(b'{"first_name":"\xff\xfe"}', 400, "not valid UTF-8", id="invalid-utf-8"),
        pytest.param(b'{"first_name":"\\ud800"}', 400, "surrogate", id="lone-surrogate"),
        pytest.param(BODY.decode().encode("utf-16"), 400, "not valid UTF-8", id="utf-16"),
        pytest.param(b"\x1f\x8b\x08\x00", 400, "not valid UTF-8", id="gzip"),
        pytest.param(b'{"first_name":"a\x00b"}', 400, "control character", id="nul"),
        pytest.param(b'{"first_name":"a\\u0000b"}', 422, "/first_name", id="escaped-nul"),
        pytest.param(b'{"first_name":"a"', 400, "unexpected end", id="half"),
        pytest.param(b"{} {}", 400, "after", id="two"),
        pytest.param(b"null", 422, "", id="null"),
        pytest.param(b"{" + b",".join(b'"k%d":1' % n for n in range(50_000)) + b"}", 422, "/k0", id="50000-names"),
    ],
)
@pytest.mark.parametrize(
    "framed", [of_length, lambda body: CHUNKED + b"\r\n" + in_chunks(body)], ids=["length", "chunks"]
)
def test_json_is_judged_by_the_service(door: Door, content: bytes, status: int, said: str, framed: Any) -> None:
    with door.connect() as wire:
        wire.send(POST + framed(content))
        answer = wire.answer()
        assert answer.status == status
        assert said in answer.body.decode()
        wire.send(GET + CLOSE + b"\r\n")
        assert [each.status for each in wire.rest()] == [200], "the connection is none the worse"
    door.makes(*["twice"] * (status == 201))
    assert door.ask(POST + CLOSE + framed(content), b"unknown").refusal == (401, "invalid_api_key"), "nobody looked"


def test_nothing_came_later(door: Door) -> None:
    with door.untouched():
        time.sleep(0.5)
