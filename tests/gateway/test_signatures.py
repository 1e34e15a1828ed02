"""The signature stage by itself: which scheme, which key, what is refused, and when content is looked at."""

import asyncio
import json
from base64 import b64encode
from typing import Any, get_args
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.nonces import Nonce
from gateway.routing import Route
from gateway.signatures import MOST_CONTENT, SignatureGate, Signing, problem_of, signing_of
from gateway.stages import Call, replayed
from gateway.upstream import GATHERED_BYTES
from shared.errors import ContentTooLarge, Problem
from shared.ids import new_id
from shared.limits.policies import Operation
from shared.signing import v0, v1
from shared.signing.failures import Code, Refused
from shared.signing.fields import signature_inputs
from shared.signing.keys import SharedSecret, Verifier
from shared.signing.message import Message
from shared.vault import Vault, signing_key_context
from tests.shared.signing.support import CONTENT, NONCE, NOW, PRIVATE, PUBLIC, SECRET, message, with_fields

ROUTE = Route("/v1/deals", "crm")
OPERATION = Operation("POST", "/v1/deals", route_class="write")
KEYS = {SECRET.key_id: (SECRET, float("inf")), PUBLIC.key_id: (PUBLIC, NOW + 100.0)}


class Memory:
    """Remembers for one process."""

    def __init__(self) -> None:
        self.seen: list[Nonce] = []
        self.spent: list[Nonce] = []
        self.begun = 0

    async def remember(self, nonce: Nonce) -> bool | None:
        if nonce.created < self.begun:
            return None
        known = any((each.key_id, each.text) == (nonce.key_id, nonce.text) for each in self.seen)
        self.seen.append(nonce)
        return not known

    async def spend(self, nonce: Nonce) -> None:
        self.spent.append(nonce)

    async def is_spent(self, nonce: Nonce) -> bool:
        return nonce in self.spent


class Body:
    """A client that sends pieces, and then waits."""

    def __init__(self, *pieces: bytes) -> None:
        self.left = list(pieces)

    async def __call__(self) -> Any:
        if not self.left:
            return {"type": "http.disconnect"}
        piece = self.left.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self.left)}


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def gate(memory: Memory) -> SignatureGate:
    return SignatureGate(memory, now=lambda: NOW)


def call(request: Message, principal: Any, policy: Any, keys: Any = KEYS) -> Call:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in request.fields.items()]
    signing = None if policy is None else Signing(policy, keys)
    return Call(
        request.method, request.path.decode(), request.path, request.query, pairs, ROUTE, OPERATION, principal(), signing,
        secure=True,
    )  # fmt: skip


def by_v1(request: Message | None = None, nonce: str = NONCE, key: Any = SECRET, created: int = NOW) -> Message:
    unsigned = message() if request is None else request
    return with_fields(unsigned, v1.sign(unsigned, key, nonce=nonce, created=created))


def by_v0(content: bytes = CONTENT, key: SharedSecret = SECRET, milliseconds: int = NOW * 1000) -> Message:
    return with_fields(message(content=content), v0.sign(key.secret, milliseconds, content))


async def code_of(gate: SignatureGate, asked: Call, *pieces: bytes) -> tuple[int, str]:
    """The problem that it is refused with, wherever that shows."""
    try:
        verified = await gate.verify(asked, Body(*pieces or (CONTENT,)))
        assert verified.content is not None
        for piece in pieces:
            verified.content.update(piece)
        await verified.content.finish(waited=True)
    except Problem as problem:
        return problem.status, problem.code
    raise AssertionError("it was not refused")


async def test_who_need_not_sign_is_not_looked_at(gate: SignatureGate, principal: Any, memory: Memory) -> None:
    body = Body(CONTENT)
    assert await gate.verify(call(by_v1(), principal, None), body) == (body, None, None)
    assert await gate.verify(call(by_v1(), principal, "off"), body) == (body, None, None)
    assert memory.seen == []


@pytest.mark.parametrize(
    ("policy", "request_", "status"),
    [
        ("v1", by_v1(), 0), ("v1", by_v0(), 401), ("v1", message(), 401),
        ("v0", by_v1(), 401), ("v0", by_v0(), 0), ("v0", message(), 401),
        ("both", by_v1(), 0), ("both", by_v0(), 0), ("both", message(), 401),
    ],
)  # fmt: skip
async def test_the_policy_says_which_scheme(
    gate: SignatureGate, principal: Any, policy: str, request_: Message, status: int
) -> None:
    asked = call(request_, principal, policy)
    if status:
        assert await code_of(gate, asked) == (status, "signature_missing")
    else:
        await gate.verify(asked, Body(CONTENT))


async def detail_of(gate: SignatureGate, asked: Call) -> str:
    """What is said to who is refused at once."""
    with pytest.raises(Problem) as caught:
        await gate.verify(asked, Body(CONTENT))
    return str(caught.value.detail)


@pytest.mark.parametrize(
    ("policy", "request_", "says"),
    [
        ("v1", by_v0(), "signatures of RFC 9421 (signature_policy: v1): sign it with Signature-Input"),
        ("v0", by_v1(), "the older scheme (signature_policy: v0): sign it with X-Timestamp"),
        ("both", message(), "The request has no signature; "), ("v1", message(), "The request has no signature; "),
        ("v0", message(), "The request is not signed: it must have X-Timestamp"),
    ],
)  # fmt: skip
async def test_who_signs_by_the_other_scheme_is_told_so(
    gate: SignatureGate, principal: Any, policy: str, request_: Message, says: str
) -> None:
    detail = await detail_of(gate, call(request_, principal, policy))
    assert says in detail
    assert "'guardian sign'" in detail


async def test_who_has_no_secret_is_told_how_to_make_one(gate: SignatureGate, principal: Any) -> None:
    detail = await detail_of(gate, call(by_v0(), principal, "v0", {}))
    assert "POST /v1/api-keys/{key_id}/signing-keys" in detail


@pytest.mark.parametrize("code", get_args(Code))
def test_every_refusal_says_what_to_do_next(code: Code) -> None:
    problem = problem_of(Refused(code, "It is wrong."))
    assert (problem.code, problem.status) == (code, 400 if code == "signature_malformed" else 401)
    detail = str(problem.detail)
    assert detail.startswith("It is wrong.")
    assert ("POST /v1/signatures/verify explains it, for test keys." in detail) == (code != "signature_replayed")
    assert ("'guardian sign'" in detail) == (code == "signature_missing")


async def test_content_is_checked_before_its_end_is_passed_on(gate: SignatureGate, principal: Any) -> None:
    verified = await gate.verify(call(by_v1(), principal, "v1"), Body())
    assert verified.content is not None
    verified.content.update(CONTENT)
    await verified.content.finish(waited=True)
    forged = await code_of(gate, call(by_v1(nonce=NONCE[::-1]), principal, "v1"), CONTENT[:-1], b"!")
    assert forged == (401, "signature_digest")


async def test_a_request_without_content_is_checked_at_once(gate: SignatureGate, principal: Any) -> None:
    empty = message("GET", content=b"")
    assert (await gate.verify(call(by_v1(empty), principal, "v1"), Body())).content is None
    wrong = with_fields(empty, {"content-digest": message().fields["content-digest"]})
    with pytest.raises(Problem) as caught:
        await gate.verify(call(by_v1(wrong, nonce=NONCE[::-1]), principal, "v1"), Body())
    assert caught.value.code == "signature_digest"


async def test_a_signature_is_good_once(gate: SignatureGate, principal: Any, memory: Memory) -> None:
    for asked in (call(by_v1(), principal, "v1"), call(by_v0(), principal, "v0")):
        await gate.verify(asked, Body(CONTENT))
        assert await code_of(gate, asked) == (401, "signature_replayed")
    assert [each.until for each in memory.seen] == [NOW + 300, NOW + 300, NOW + 301, NOW + 301]


async def test_a_keyed_post_may_be_sent_again_because_its_service_answers_it_once(
    gate: SignatureGate, principal: Any
) -> None:
    for method, again in (("POST", None), ("PATCH", (401, "signature_replayed"))):
        keyed = by_v1(with_fields(message(method), {"idempotency-key": "k-1"}), nonce=NONCE + method)
        await gate.verify(call(keyed, principal, "v1"), Body(CONTENT))
        if again is None:
            await gate.verify(call(keyed, principal, "v1"), Body(CONTENT))
        else:
            assert await code_of(gate, call(keyed, principal, "v1")) == again
    unsigned_key = with_fields(by_v1(), {"idempotency-key": "k-1"})
    assert await code_of(gate, call(unsigned_key, principal, "v1")) == (401, "signature_incomplete")
    older = with_fields(by_v0(), {"idempotency-key": "k-1"})
    await gate.verify(call(older, principal, "v0"), Body(CONTENT))
    assert await code_of(gate, call(older, principal, "v0"), CONTENT) == (401, "signature_replayed")


@pytest.mark.parametrize(
    ("status", "headers", "again"),
    [
        (201, [], True), (404, [], False), (400, [], False), (503, [], True), (500, [], True),
        (409, [(b"retry-after", b"1")], True), (409, [(b"content-type", b"a/b")], False),
    ],
)  # fmt: skip
async def test_a_keyed_post_that_was_refused_for_good_may_not(
    gate: SignatureGate, principal: Any, status: int, headers: Any, again: bool
) -> None:
    keyed = call(by_v1(with_fields(message(), {"idempotency-key": "k-1"})), principal, "v1")
    verified = await gate.verify(keyed, Body(CONTENT))
    assert verified.on_answer is not None
    await verified.on_answer(status, headers)
    if again:
        await gate.verify(keyed, Body(CONTENT))
    else:
        assert await code_of(gate, keyed) == (401, "signature_replayed")


@pytest.mark.parametrize("late", [0, 1])
async def test_one_whose_content_came_too_late_may_not_either(gate: SignatureGate, principal: Any, late: int) -> None:
    """Of two sendings at once one was refused for good while the other's last byte was held back."""
    keyed = call(by_v1(with_fields(message(), {"idempotency-key": "k-1"})), principal, "v1")
    sent = [await gate.verify(keyed, Body(CONTENT)) for _ in range(2)]
    whole, held_back = sent[1 - late], sent[late]
    assert whole.content is not None
    assert whole.on_answer is not None
    assert held_back.content is not None
    for content in (whole.content, held_back.content):
        content.update(CONTENT)
    await whole.content.finish(waited=False)
    await whole.on_answer(404, [])
    with pytest.raises(Problem) as caught:
        await held_back.content.finish(waited=True)
    assert (caught.value.status, caught.value.code) == (401, "signature_replayed")


@pytest.mark.parametrize("connection", ["Idempotency-Key", "keep-alive,\tidempotency-key", "close, If-Match"])
async def test_nothing_signed_is_taken_out(gate: SignatureGate, principal: Any, connection: str) -> None:
    """A service that does not see the key would do again what it has done."""
    signed = with_fields(message(), {"idempotency-key": "k-1", "if-match": '"3"'})
    text = v1.sign(signed, SECRET, nonce=NONCE, created=NOW)
    covers = text["Signature-Input"].replace('"idempotency-key"', '"idempotency-key" "if-match"')
    base = v1.base(signed, signature_inputs(covers)["gdn"])
    made = {"Signature-Input": covers, "Signature": f"gdn=:{b64encode(SECRET.sign(base)).decode()}:"}
    await gate.verify(
        call(with_fields(signed, {**made, "connection": "close, x-other"}), principal, "v1"), Body(CONTENT)
    )
    named = call(with_fields(signed, {**made, "connection": connection}), principal, "v1")
    assert await code_of(gate, named) == (401, "signature_incomplete")


@pytest.mark.parametrize("policy", ["v1", "v0"])
async def test_what_the_database_forgot_is_not_called_used(
    gate: SignatureGate, memory: Memory, principal: Any, policy: str
) -> None:
    memory.begun = NOW + 1
    sent = call(by_v1() if policy == "v1" else by_v0(), principal, policy)
    for _ in range(2):
        assert await code_of(gate, sent) == (503, "service_unavailable")
    keyed = call(by_v1(with_fields(message(), {"idempotency-key": "k-1"})), principal, "v1")
    await gate.verify(keyed, Body(CONTENT))


async def test_larger_contents_of_the_older_scheme_are_held_a_few_at_a_time(
    gate: SignatureGate, principal: Any
) -> None:
    """Each is up to a MiB of memory, for whoever has an API key and no secret."""
    begun, stopped = b"x" * GATHERED_BYTES, asyncio.Event()

    async def stalls() -> Any:
        await stopped.wait()
        return {"type": "http.disconnect"}

    asked = call(by_v0(), principal, "v0")
    waiting = [asyncio.ensure_future(gate.verify(asked, replayed(begun + b"x", stalls, more=True))) for _ in range(16)]
    await asyncio.sleep(0)
    try:
        with pytest.raises(Problem) as caught:
            await gate.verify(asked, replayed(begun + b"x", stalls, more=True))
        assert (caught.value.status, caught.value.code) == (503, "upstream_busy")
        await gate.verify(asked, Body(CONTENT))  # a small one needs none of it
    finally:
        stopped.set()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_what_is_forged_uses_up_no_nonce(gate: SignatureGate, principal: Any, memory: Memory) -> None:
    forged = with_fields(by_v1(), {}, path=b"/v1/deals/8")
    assert await code_of(gate, call(forged, principal, "v1")) == (401, "signature_mismatch")
    assert await code_of(gate, call(by_v0(), principal, "v0"), b"other") == (401, "signature_mismatch")
    assert memory.seen == []


async def test_fields_that_cannot_be_read_are_400(gate: SignatureGate, principal: Any) -> None:
    mangled = with_fields(by_v1(), {"signature": "gdn=abc"})
    assert await code_of(gate, call(mangled, principal, "v1")) == (400, "signature_malformed")


async def test_a_key_ends(gate: SignatureGate, principal: Any) -> None:
    by_pair = call(by_v1(key=PRIVATE), principal, "v1")
    await gate.verify(by_pair, Body(CONTENT))
    late = SignatureGate(Memory(), now=lambda: NOW + 100)
    assert await code_of(late, by_pair) == (401, "signature_key")
    nothing = call(by_v0(), principal, "v0", {PUBLIC.key_id: KEYS[PUBLIC.key_id]})
    assert await code_of(gate, nothing) == (401, "signature_key")


class TestTheOlderScheme:
    async def test_all_content_is_seen_before_any_is_passed_on(self, gate: SignatureGate, principal: Any) -> None:
        """Otherwise a route that does not read its content would do what nobody signed."""
        body = Body(CONTENT[:4], CONTENT[4:])
        verified = await gate.verify(call(by_v0(), principal, "v0"), body)
        assert body.left == []
        assert await verified.receive() == {"type": "http.request", "body": CONTENT, "more_body": False}
        assert (await verified.receive())["type"] == "http.disconnect"

    async def test_content_has_an_end(self, gate: SignatureGate, principal: Any) -> None:
        asked = call(by_v0(), principal, "v0")
        with pytest.raises(ContentTooLarge):
            await gate.verify(asked, Body(*[b"x" * 65_536] * (MOST_CONTENT // 65_536 + 1)))
        with pytest.raises(Problem) as caught:
            await gate.verify(asked, Body())
        assert caught.value.status == 400

    async def test_any_of_the_secrets_may_have_signed(self, gate: SignatureGate, principal: Any) -> None:
        successor = SharedSecret("successor", b"another secret")
        keys = {**KEYS, successor.key_id: (successor, float("inf"))}
        for key in (SECRET, successor):
            asked = call(by_v0(key=key), principal, "v0", keys)
            await gate.verify(asked, Body(CONTENT))
            assert asked.signed_by == key.key_id, "the same signs the answer"


class TestStoredKeys:
    def test_are_opened(self) -> None:
        vault, organization_id, key_id, pair = Vault(bytes(32)), new_id(), str(new_id()), str(new_id())
        sealed = vault.seal(SECRET.secret, signing_key_context(organization_id, UUID(key_id)))
        public = PUBLIC.key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        stored = [
            {"id": key_id, "algorithm": "hmac-sha256", "material": b64encode(sealed).decode(), "expires_at": None},
            {"id": pair, "algorithm": "ed25519", "material": b64encode(public).decode(), "expires_at": NOW},
        ]
        found = signing_of("both", json.dumps(stored), organization_id, vault)
        assert found is not None
        assert found.secrets(NOW) == [SharedSecret(key_id, SECRET.secret)]
        assert found.find(pair, NOW - 1) is not None
        assert (found.find(pair, NOW), found.find("nobody", NOW)) == (None, None)
        assert signing_of("off", stored, organization_id, vault) is None
        answering = signing_of("off", stored, organization_id, vault, answers=True)
        assert answering is not None
        assert (answering.answers, answering.keys, found.answers) == (True, found.keys, False)

    def test_answers_are_signed_by_a_secret_that_is_still_good(self) -> None:
        old, new, ended = (SharedSecret(name, b"secret") for name in ("old", "new", "ended"))
        never = float("inf")
        keys: dict[str, tuple[Verifier, float]] = {"old": (old, never), "new": (new, NOW + 1.0), "ended": (ended, NOW)}
        signing = Signing("v1", keys | {PUBLIC.key_id: (PUBLIC, never)}, answers=True)
        chosen = [signing.answering(key_id, NOW) for key_id in ("old", "new", "ended", PUBLIC.key_id, None)]
        assert chosen == [old, new, new, new, new]
        assert signing.answering("new", NOW + 1) == old
        assert Signing("v1", {}, answers=True).answering("old", NOW) is None

    def test_of_another_organisation_open_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        vault, key_id = Vault(bytes(32)), str(new_id())
        sealed = vault.seal(SECRET.secret, signing_key_context(new_id(), UUID(key_id)))
        stored = [
            {"id": key_id, "algorithm": "hmac-sha256", "material": b64encode(sealed).decode(), "expires_at": None}
        ]
        found = signing_of("v1", stored, new_id(), vault)
        assert found is not None
        assert found.keys == {}, "a key that must sign, and has nothing to sign with, is refused"
        assert key_id in caplog.text
