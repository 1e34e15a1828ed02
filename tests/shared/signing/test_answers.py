"""Answers that are signed: what holds, and that nothing else does."""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from http_message_signatures import HTTPMessageVerifier, InvalidSignature, algorithms

from shared.signing import answers, v1
from shared.signing.answers import Answer
from shared.signing.failures import Refused
from shared.signing.keys import SharedSecret, Verifier
from shared.signing.message import Message
from tests.shared.signing.support import NOW, PRIVATE, PUBLIC, SECRET, message, signed, with_fields
from tests.shared.signing.test_v1 import _Keys

BODY = b'{"id": "7", "amount": 12}'
HEAD = {"content-type": "application/json", "x-request-id": "r"}
URL = "https://api.example.com/v1/deals?expand=stage"


def find(key_id: str) -> Verifier | None:
    known: dict[str, Verifier] = {SECRET.key_id: SECRET, PUBLIC.key_id: PUBLIC}
    return known.get(key_id)


def answer(fields: Mapping[str, str], content: bytes = BODY, status: int = 201) -> Answer:
    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in fields.items() if value]
    return Answer(status, pairs, content)


def answered(
    request: Message, *, head: Mapping[str, str] = HEAD, content: bytes = BODY, status: int = 201, key: Any = SECRET
) -> dict[str, str]:
    """All fields of a signed answer."""
    made = answers.sign(request, answer(head, content, status), lambda _: key, created=NOW)
    return {**head, **{name.lower(): value for name, value in made.items()}}


def code_of(request: Message, given: Answer, now: float = NOW + 1) -> str:
    """Why it is refused."""
    with pytest.raises(Refused) as caught:
        answers.verify(request, given, find, now)
    assert caught.value.detail
    return caught.value.code


@pytest.mark.parametrize("key", [SECRET, PRIVATE], ids=["hmac-sha256", "ed25519"])
@pytest.mark.parametrize("request_", [signed(), message(), message("GET", content=b""), message("HEAD", content=b"")])
@pytest.mark.parametrize("head", [HEAD, {}, {**HEAD, "idempotency-replayed": "true"}])
def test_what_is_signed_is_verified(key: Any, request_: Message, head: dict[str, str]) -> None:
    for status, content in ((200, BODY), (204, b""), (304, b""), (429, b"{}")):
        fields = answered(request_, head=head, content=content, status=status, key=key)
        assert answers.verify(request_, answer(fields, content, status), find, NOW - 300) == key.key_id


def test_what_is_covered_stands_in_this_order() -> None:
    fields = answered(signed(), head={**HEAD, "idempotency-replayed": "true"})
    assert fields["signature-input"] == (
        'gdn=("@status" "content-digest" "content-type" "idempotency-replayed" "@method";req "@authority";req "@path";req '
        f'"@query";req "signature";key="gdn";req);created={NOW};keyid="{SECRET.key_id}";alg="hmac-sha256"'
        ';tag="guardian-answer-v1"'
    )
    unsigned = answered(message("GET", content=b""), head={}, content=b"")
    assert unsigned["content-digest"] == "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
    assert '("@status" "content-digest" "@method";req' in unsigned["signature-input"]
    assert '"@query";req);created' in unsigned["signature-input"]


def test_the_text_that_is_signed_by_hand() -> None:
    request = signed()
    fields = answered(request)
    digest = b64encode(hashlib.sha256(BODY).digest()).decode()
    text = (
        '"@status": 201\n'
        f'"content-digest": sha-256=:{digest}:\n'
        '"content-type": application/json\n'
        '"@method";req: POST\n"@authority";req: api.example.com\n"@path";req: /v1/deals\n"@query";req: ?expand=stage\n'
        f'"signature";key="gdn";req: {request.fields["signature"].removeprefix("gdn=")}\n'
        f'"@signature-params": {fields["signature-input"].removeprefix("gdn=")}'
    )
    mac = hmac.new(SECRET.secret, text.encode(), hashlib.sha256).digest()
    assert fields["signature"] == f"gdn=:{b64encode(mac).decode()}:"


@pytest.mark.parametrize("key", [SECRET, PRIVATE], ids=["hmac-sha256", "ed25519"])
@pytest.mark.parametrize("request_", [signed(), message()], ids=["signed", "unsigned"])
def test_another_implementation_verifies_it(key: Any, request_: Message) -> None:
    theirs = httpx.Request("POST", URL, headers=request_.fields)
    made = answers.sign(request_, answer(HEAD), lambda _: key, created=int(datetime.now(UTC).timestamp()))
    reply = httpx.Response(201, headers={**HEAD, **made}, content=BODY, request=theirs)
    algorithm: Any = algorithms.HMAC_SHA256 if key is SECRET else algorithms.ED25519
    verifier = HTTPMessageVerifier(signature_algorithm=algorithm, key_resolver=_Keys())
    required = ["@status", '"@method";req', '"@path";req', '"@query";req']
    required += ['"signature";key="gdn";req'] if "signature" in request_.fields else []
    (result,) = verifier.verify(reply, expect_tag=answers.TAG, body=BODY, require_components=required)
    assert result.parameters["keyid"] == key.key_id
    other = httpx.Response(200, headers=reply.headers, content=BODY, request=theirs)
    with pytest.raises(InvalidSignature):
        verifier.verify(other, expect_tag=answers.TAG)


def test_an_answer_that_was_changed_is_refused() -> None:
    request = signed()
    fields = answered(request, head={**HEAD, "idempotency-replayed": "true"})
    assert code_of(request, answer(fields, status=200)) == "signature_mismatch"
    assert code_of(request, answer(fields, BODY + b" ")) == "signature_digest"
    assert code_of(request, answer(fields, b"")) == "signature_digest"
    changed = {
        "content-type": "text/html", "idempotency-replayed": "false", "content-digest": message().fields["content-digest"],
        "signature-input": fields["signature-input"].replace(f"created={NOW}", f"created={NOW + 1}"),
    }  # fmt: skip
    for name, value in changed.items():
        assert code_of(request, answer({**fields, name: value})) == "signature_mismatch", name
    for name in ("content-type", "idempotency-replayed", "content-digest"):
        assert code_of(request, answer({**fields, name: ""})) == "signature_incomplete", name
    for name in ("content-type", "idempotency-replayed"):
        bare = answered(request, head={})
        assert code_of(request, answer({**bare, name: "text/html"})) == "signature_incomplete"
    answers.verify(request, answer({**fields, "x-request-id": "other"}), find, NOW)


@pytest.mark.parametrize(
    ("other", "code"),
    [
        (with_fields(signed(), {}, method="PUT"), "signature_mismatch"),
        (with_fields(signed(), {}, path=b"/v1/deals/7"), "signature_mismatch"),
        (with_fields(signed(), {}, query=b""), "signature_mismatch"),
        (with_fields(signed(), {"host": "other.example.com"}), "signature_mismatch"),
        (signed(nonce="bm90IHRoZSBzYW1lIC4uLg=="), "signature_mismatch"),
        (message(), "signature_incomplete"),
        (with_fields(signed(), {"signature": "gdn=!"}), "signature_incomplete"),
    ],
)
def test_the_answer_to_another_request_is_refused(other: Message, code: str) -> None:
    assert code_of(other, answer(answered(signed()))) == code


def test_the_answer_to_a_signed_request_is_bound_to_its_signature() -> None:
    assert code_of(signed(), answer(answered(message()))) == "signature_incomplete"


def test_the_key_must_be_known_and_what_the_answer_says_of_it_right() -> None:
    request = signed()
    stranger = SharedSecret("stranger", bytes(32))
    assert code_of(request, answer(answered(request, key=stranger))) == "signature_key"
    impostor = SharedSecret(SECRET.key_id, bytes(32))
    assert code_of(request, answer(answered(request, key=impostor))) == "signature_mismatch"
    fields = answered(request)
    other = fields["signature-input"].replace("hmac-sha256", "ed25519")
    assert code_of(request, answer({**fields, "signature-input": other})) == "signature_algorithm"
    assert code_of(request, answer({**fields, "signature": "other=:AAAA:"})) == "signature_mismatch"


def test_it_is_five_minutes_old_at_most() -> None:
    given = answer(answered(signed()))
    for now in (NOW + 301, NOW - 301):
        assert code_of(signed(), given, now) == "signature_time"


def test_fields_that_say_too_little_or_nothing() -> None:
    request = signed()
    fields = answered(request)
    assert code_of(request, answer(HEAD)) == "signature_missing"
    with pytest.raises(Refused, match="stream"):
        answers.verify(request, answer({**HEAD, "guardian-answer-unsigned": "stream"}), find, NOW)
    given = fields["signature-input"]
    for old, new, code in [
        (answers.TAG, v1.TAG, "signature_missing"),
        (f';keyid="{SECRET.key_id}"', "", "signature_incomplete"),
        (";alg=", ";alg=:AAAA:;x=", "signature_incomplete"),
        (f";created={NOW}", "", "signature_incomplete"),
        ('"@status"', '"@status" "@path"', "signature_incomplete"),
        ('"@status"', '"@status" "etag"', "signature_incomplete"),
        ('"@status" ', "", "signature_incomplete"),
        ("gdn=", "gdn=!", "signature_malformed"),
    ]:
        assert code_of(request, answer({**fields, "signature-input": given.replace(old, new)})) == code, new


def test_the_key_is_chosen_by_what_the_request_says() -> None:
    asked: list[str | None] = []

    def key_for(key_id: str | None) -> SharedSecret:
        asked.append(key_id)
        return SECRET

    unreadable = with_fields(signed(), {"signature-input": "gdn=("})
    other_tag = with_fields(signed(), {"signature-input": 'a=("@method");tag="theirs"'})
    other_label = with_fields(signed(), {"signature": "theirs=:AAAA:"})
    for request in (signed(), message(), unreadable, other_tag, other_label):
        answers.sign(request, answer(HEAD), key_for, created=NOW)
    assert asked == [SECRET.key_id, None, None, None, None]
