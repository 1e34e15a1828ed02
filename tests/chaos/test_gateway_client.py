"""What the client of gateway runs says of answers that end where they should, and of those that do not."""

import asyncio
from collections.abc import Callable

import pytest

from shared.signing import v1
from shared.signing.keys import SharedSecret
from shared.signing.message import Message
from tests.bench.gateway_load import Caller
from tests.chaos.gateway_client import Client, plain, signed
from tests.chaos.gateway_history import Attempt
from tests.chaos.gateway_system import _looks

PROBLEM = b'{"status":503,"code":"overloaded"}'
HEAD = b"HTTP/1.1 503 X\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\ncontent-length: 34\r\n\r\n"


async def told(sent: bytes) -> Attempt:
    """What a client says when a server answers with these bytes and closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        client = Client(server.sockets[0].getsockname()[1])
        attempt = await client.ask(plain("GET", "/x"))
        client.close()
        return attempt


async def test_a_whole_problem() -> None:
    attempt = await told(HEAD + PROBLEM)
    assert (attempt.outcome, attempt.status, attempt.code, attempt.retry_after) == ("answer", 503, "overloaded", "1")


@pytest.mark.parametrize("sent", [HEAD + PROBLEM[:-1], HEAD, HEAD[:40]])
async def test_an_answer_that_does_not_end(sent: bytes) -> None:
    assert (await told(sent)).outcome == "broken"


async def test_chunks() -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[1\r\n1\r\n]\r\n"
    whole, broken = await told(head + b"0\r\n\r\n"), await told(head)
    assert (whole.outcome, whole.sound, broken.outcome) == ("answer", True, "broken")


async def test_nothing_at_all() -> None:
    assert (await told(b"")).outcome == "silent"
    assert (await Client(1).ask(plain("GET", "/x"))).outcome == "refused"


@pytest.mark.parametrize(
    "change",
    [
        lambda sent: sent.replace(b"problem+json", b"json"),
        lambda sent: sent.replace(b'"status":503', b'"status":502'),
        lambda sent: sent.replace(b'"code"', b'"kode"'),
    ],
)
async def test_a_problem_that_is_none(change: Callable[[bytes], bytes]) -> None:
    assert (await told(change(HEAD + PROBLEM))).code == "?"


async def test_content_that_cannot_be_read() -> None:
    attempt = await told(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n[1,")
    assert (attempt.outcome, attempt.sound) == ("answer", False)


def test_signed_requests_hold() -> None:
    secret = SharedSecret("k", b"secret")
    sent = signed("POST", "/v1/contacts", Caller("gdn_x", secret), b"{}", key="once")
    head, _, content = sent.partition(b"\r\n\r\n")
    pairs = [tuple(line.split(b": ", 1)) for line in head.split(b"\r\n")[1:]]
    message = Message("POST", b"/v1/contacts", b"", [(a.lower(), b) for a, b in pairs], scheme="http")
    verified = v1.verify(message, lambda _key: secret, float(_created(message)))
    assert verified.digest is not None
    assert content == b"{}"


def _created(message: Message) -> str:
    return message.fields["signature-input"].partition("created=")[2].partition(";")[0]


def test_figures_are_read() -> None:
    text = """# HELP x y
guardian_gateway_requests_total{method="GET",service="crm",status="200"} 7.0
guardian_gateway_requests_total{method="POST",service="crm",status="201"} 2.0
guardian_gateway_guard{service="crm",state="retries"} 3.0
guardian_gateway_guard{service="crm",state="inside"} 9.0
guardian_gateway_in_flight 1.0
"""
    (look,) = _looks("gateway-0", text)
    assert (look.service, look.requests, look.retries) == ("crm", 10, 3)
