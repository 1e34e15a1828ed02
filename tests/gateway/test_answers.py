"""Answers to the calls of API keys that want them signed, whoever gives them, and wherever the service runs."""

import asyncio
import json
import time
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.answers import MOST_CONTENT, platform_key
from gateway.stages import Call, Taken
from shared.errors import TooManyRequests
from shared.ids import new_id
from shared.signing import answers, v1
from shared.signing.failures import Refused
from shared.signing.keys import PublicKey, SharedSecret, Verifier
from shared.signing.message import Message
from shared.testing.server import TestServer
from shared.vault import SIGNING_KEYS, Vault, signing_key_context
from tests.gateway.conftest import Echo, Reply
from tests.gateway.upstreams import proxied
from tests.gateway.world import World, running_world
from tests.shared.signing.support import NONCE, PUBLIC, with_fields

SIGNATURE_FIELDS = {"content-digest", "signature", "signature-input"}


class Service(Echo):
    """Answers that are held back, and such as cannot be."""

    async def do_pieces(self, scope: Any, receive: Any, send: Any) -> None:
        await self._say(send, [b"a" * 100_000] * 10, (b"content-type", b"text/csv"), (b"idempotency-replayed", b"true"))

    async def do_long(self, scope: Any, receive: Any, send: Any) -> None:
        await self._say(send, [b"a" * 100_000] * 11)

    async def do_longer(self, scope: Any, receive: Any, send: Any) -> None:
        await self._say(send, [b"a" * MOST_CONTENT, b"b"], (b"content-length", b"%d" % (MOST_CONTENT + 1)))

    async def do_most(self, scope: Any, receive: Any, send: Any) -> None:
        await self._say(send, [b"a" * MOST_CONTENT], (b"content-length", b"%d" % MOST_CONTENT))

    async def do_events(self, scope: Any, receive: Any, send: Any) -> None:
        await self._say(send, [b"data: one\n\n"] * 2, (b"content-type", b"text/event-stream; charset=utf-8"))

    async def do_forge(self, scope: Any, receive: Any, send: Any) -> None:
        theirs = [(name.encode(), b"theirs") for name in (*SIGNATURE_FIELDS, "guardian-answer-unsigned")]
        await self._say(send, [b"ok"], *theirs)

    async def do_stall(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/csv")]})
        await send({"type": "http.response.body", "body": b"a,b", "more_body": True})
        await asyncio.sleep(60)

    async def do_nothing_new(self, scope: Any, receive: Any, send: Any) -> None:
        await self._say(send, [], (b"etag", b'"1"'), status=304)

    @staticmethod
    async def _say(send: Any, pieces: list[bytes], *headers: tuple[bytes, bytes], status: int = 200) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class Quotas:
    """Refuses what asks for it."""

    async def take(self, call: Call) -> Taken:
        return Taken(refusal=TooManyRequests("Enough.") if call.query_string == b"do=refused" else None)


@pytest.fixture(scope="module", params=["hosted", "apart"])
def signing_world(
    request: pytest.FixtureRequest, postgres_server: TestServer, start: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A world with its service in the gateway's process, or in another."""

    def begin(settings: Any) -> Any:
        hasty = settings.model_copy(update={"request_timeout_seconds": 0.5})
        if request.param == "hosted":
            return start(hasty, upstreams={"echo": Service()}, quotas=Quotas())
        return proxied(start, hasty, Service(), quotas=Quotas())

    with running_world(postgres_server, begin, tmp_path_factory.mktemp("signing")) as running:
        yield running


@pytest.fixture
def world(signing_world: World, eventually: Callable[..., None]) -> World:
    eventually(signing_world.listening, "listening")
    return signing_world


class Caller:
    """An API key with signing keys, and somebody who verifies its answers."""

    def __init__(self, world: World, *ends: float | None, pair: bool = False, **fields: Any) -> None:
        organization_id = new_id()
        vault = Vault(world.settings.derive_key(SIGNING_KEYS))
        self.world, self.secrets = world, list[SharedSecret]()
        stored: list[dict[str, Any]] = []
        for number, end in enumerate(ends):
            key_id = str(new_id())
            self.secrets.append(SharedSecret(key_id, b"secret %d" % number))
            sealed = vault.seal(b"secret %d" % number, signing_key_context(organization_id, UUID(key_id)))
            stored.append({"id": key_id, "algorithm": "hmac-sha256", "expires_at": end, "material": sealed})
        if pair:
            raw = PUBLIC.key.public_bytes(Encoding.Raw, PublicFormat.Raw)
            stored.append({"id": str(new_id()), "algorithm": "ed25519", "expires_at": None, "material": raw})
        keys = [{**each, "material": b64encode(each["material"]).decode()} for each in stored]
        values = {"sign_answers": True, "signing_keys": json.dumps(keys), **fields}
        self.key = world.key("contacts:read", organization_id=organization_id, **values)

    def ask(self, action: str = "", *, by: SharedSecret | None = None, method: str = "GET") -> tuple[Message, Reply]:
        """Call ``/v1/private``, signed by a secret if one is given; the request, and its answer."""
        query, line = f"do={action}" if action else "", "/v1/private"
        pairs = [(b"host", b"api.example"), (b"authorization", f"Bearer {self.key.text}".encode())]
        request = Message(method, line.encode(), query.encode(), pairs, scheme="http")
        if by is not None:
            made = v1.sign(request, by, nonce=NONCE, created=int(time.time()))
            request = with_fields(request, made)
            request.scheme = "http"
        fields = [f"{name}: {value}" for name, value in request.fields.items() if name != "host"]
        reply = self.world.front.get(f"{line}?{query}" if query else line, *fields, method=method)
        return request, reply

    def verified(self, request: Message, reply: Reply) -> str:
        """The id of the key that signed the answer."""
        pairs = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
        return answers.verify(request, answers.Answer(reply.status, pairs, content_of(reply)), self._find, time.time())

    def _find(self, key_id: str) -> Verifier | None:
        (jwk,) = self.world.front.get("/.well-known/guardian-answer-key").json["keys"]
        public = Ed25519PublicKey.from_public_bytes(urlsafe_b64decode(jwk["x"] + "="))
        known: list[Verifier] = [*self.secrets, PublicKey(jwk["kid"], public)]
        return next((key for key in known if key.key_id == key_id), None)


def content_of(reply: Reply) -> bytes:
    """Without the chunks it came in."""
    if reply.headers.get("transfer-encoding") != "chunked":
        return reply.body
    content, rest = b"", reply.body
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        content, rest = content + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return content


@pytest.mark.parametrize(
    ("action", "status"),
    [
        ("", 200), ("pieces", 200), ("most", 200), ("headers", 200), ("forge", 200), ("metered", 429), ("nothing_new", 304),
        ("refused", 429), ("hang", 504), ("stall", 504), ("nothing", 502), ("abort", 502), ("cut", 502),
    ],
)  # fmt: skip
def test_every_answer_is_signed(world: World, action: str, status: int) -> None:
    """Also the gateway's own, and one in place of an answer that its service broke off."""
    caller = Caller(world, None)
    request, reply = caller.ask(action)
    # What fails apart, and what the server there makes of it, are not always the same.
    assert reply.status == status or (action in {"abort", "nothing"} and reply.status == 500)
    assert caller.verified(request, reply) == caller.secrets[0].key_id
    assert "guardian-answer-unsigned" not in reply.headers
    with pytest.raises(Refused):
        caller.verified(with_fields(request, {}, query=b"do=other"), reply)
    assert world.front.get("/livez").status == 200


def test_an_answer_without_content_has_the_digest_of_none(world: World) -> None:
    caller = Caller(world, None)
    for method, action in (("HEAD", ""), ("HEAD", "longer"), ("HEAD", "events"), ("GET", "nothing_new")):
        request, reply = caller.ask(action, method=method)
        assert caller.verified(request, Reply(reply.status, reply.headers, b"", closed=False)), action
        assert reply.headers["content-digest"] == "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"


@pytest.mark.parametrize(
    ("action", "reason", "size"),
    [("long", "content-length", 1_100_000), ("longer", "content-length", MOST_CONTENT + 1), ("events", "stream", 22)],
)
def test_what_cannot_be_held_back_says_why_it_is_unsigned(world: World, action: str, reason: str, size: int) -> None:
    caller = Caller(world, None)
    request, reply = caller.ask(action)
    assert (reply.status, reply.complete, len(content_of(reply))) == (200, True, size)
    assert reply.headers["guardian-answer-unsigned"] == reason
    assert not SIGNATURE_FIELDS & reply.headers.keys()
    with pytest.raises(Refused, match=reason):
        caller.verified(request, reply)


@pytest.mark.parametrize("fields", [{"sign_answers": False}, {"sign_answers": False, "signing_keys": "[]"}])
def test_without_the_option_nothing_is_added(world: World, fields: dict[str, Any]) -> None:
    caller = Caller(world, None, **fields)
    for action in ("", "pieces", "hang", "long"):
        _, reply = caller.ask(action)
        assert not (SIGNATURE_FIELDS | {"guardian-answer-unsigned"}) & reply.headers.keys()
    assert not caller.ask("abort")[1].complete
    assert "guardian-answer-unsigned" not in caller.ask("forge")[1].headers
    assert not SIGNATURE_FIELDS & world.front.get("/v1/echo").headers.keys()


def test_the_secret_that_signed_the_request_signs_its_answer(world: World) -> None:
    soon = time.time() + 60
    caller = Caller(world, None, soon, pair=True)
    old, new = caller.secrets
    for by, expected in ((old, old), (new, new), (None, new)):
        request, reply = caller.ask(by=by)
        assert reply.status == 200
        assert caller.verified(request, reply) == expected.key_id
        assert ('"signature";key="gdn";req' in reply.headers["signature-input"]) is (by is not None)


def test_a_secret_that_has_expired_signs_nothing(world: World) -> None:
    caller = Caller(world, None, time.time() - 1, None, time.time() - 1)
    request, reply = caller.ask(by=caller.secrets[1])
    assert caller.verified(request, reply) == caller.secrets[2].key_id
    stranger = SharedSecret("stranger", b"x")
    request, reply = caller.ask(by=stranger)
    assert caller.verified(request, reply) == caller.secrets[2].key_id


@pytest.mark.parametrize("ends", [(), (1.0,)], ids=["a public key", "a secret that has expired"])
def test_without_a_secret_that_works_it_is_the_platforms_key(world: World, ends: tuple[float, ...]) -> None:
    caller = Caller(world, *ends, pair=True)
    request, reply = caller.ask("pieces")
    assert caller.verified(request, reply) == platform_key(world.settings).key_id
    assert 'alg="ed25519"' in reply.headers["signature-input"]


def test_a_refused_signature_is_answered_with_a_signature(world: World) -> None:
    caller = Caller(world, None, signature_policy="v1")
    request, reply = caller.ask()
    assert (reply.status, reply.code) == (401, "signature_missing")
    assert caller.verified(request, reply)
    forged = SharedSecret(caller.secrets[0].key_id, b"not the secret")
    request, reply = caller.ask(by=forged)
    assert (reply.status, reply.code) == (401, "signature_mismatch")
    assert caller.verified(request, reply)
    request, reply = caller.ask(by=caller.secrets[0])  # what was signed before cannot be told here
    assert reply.status == 503
    assert caller.verified(request, reply)
    assert '"signature";key="gdn";req' in reply.headers["signature-input"]


def test_before_the_key_is_known_there_is_nobody_to_sign_for(world: World) -> None:
    caller = Caller(world, None)
    unknown = world.front.get("/v1/nowhere", f"Authorization: Bearer {caller.key.text}")
    assert (unknown.status, SIGNATURE_FIELDS & unknown.headers.keys()) == (404, set())
    world.revoke(caller.key)
    _, reply = caller.ask()
    assert (reply.status, SIGNATURE_FIELDS & reply.headers.keys()) == (401, set())


@pytest.mark.parametrize(
    ("head", "content", "status", "is_signed"),
    [
        ("Content-Length: 1048577", b"", 413, False),
        ("Transfer-Encoding: chunked", b"100001\r\n" + b"a" * 0x100001 + b"\r\n0\r\n\r\n", 413, True),
        ("Content-Length: 10", b"a", 408, False),
        ("Transfer-Encoding: chunked", b"1\r\na\r\nnone\r\n", 400, False),
        ("Content-Length: 0\r\nX-Long: " + "a" * 100_000, b"", 431, False),
        ("Content-Length: 01", b"a", 400, False),
    ],
    ids=["too long", "too long in chunks", "too slow", "broken chunks", "long head", "no head"],
)
def test_content_is_refused_with_a_signature_where_its_key_was_asked_for(
    world: World, head: str, content: bytes, status: int, is_signed: bool
) -> None:
    """docs/guides/signing.md, 'Signed answers', lists what goes unsigned."""
    caller = Caller(world, None)
    caller.ask()
    authorization = f"Authorization: Bearer {caller.key.text}"
    sent = f"POST /v1/private HTTP/1.1\r\nHost: api.example\r\n{authorization}\r\n{head}\r\n\r\n".encode() + content
    reply = world.front.send(sent)
    signed = SIGNATURE_FIELDS & reply.headers.keys()
    assert (reply.status, signed) == (status, SIGNATURE_FIELDS if is_signed else set())
    page = world.front.get("/livez", authorization)
    assert (page.status, SIGNATURE_FIELDS & page.headers.keys()) == (200, set())


def test_the_platforms_public_key_is_there_for_everybody(front: Any, offline_settings: Any) -> None:
    reply = front.get("/.well-known/guardian-answer-key")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/jwk-set+json")
    assert reply.headers["cache-control"] == "public, max-age=3600"
    ours = platform_key(offline_settings)
    (jwk,) = reply.json["keys"]
    assert (jwk["kty"], jwk["crv"], jwk["kid"]) == ("OKP", "Ed25519", ours.key_id)
    public = Ed25519PublicKey.from_public_bytes(urlsafe_b64decode(jwk["x"] + "="))
    public.verify(ours.sign(b"text"), b"text")
    assert front.get("/.well-known/guardian-answer-key", method="POST").status == 405
