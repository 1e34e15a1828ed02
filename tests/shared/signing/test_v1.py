"""The profile of RFC 9421: what holds, and why the rest does not."""

import random
import string
from base64 import b64decode, b64encode, urlsafe_b64decode
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import (
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    algorithms,
)

from shared.signing import v1
from shared.signing.failures import Refused
from shared.signing.fields import signature_inputs
from shared.signing.keys import PublicKey, SharedSecret, Verifier
from shared.signing.message import Message
from tests.shared.signing.support import CONTENT, NONCE, NOW, PRIVATE, PUBLIC, SECRET, message, signed, with_fields

RFC_HEADERS = [
    (b"host", b"example.com"),
    (b"date", b"Tue, 20 Apr 2021 02:07:55 GMT"),
    (b"content-type", b"application/json"),
    (b"content-length", b"18"),
]
RFC_REQUEST = Message("POST", b"/foo", b"param=Value&Pet=dog", RFC_HEADERS)


def find(key_id: str) -> Verifier | None:
    known: dict[str, Verifier] = {SECRET.key_id: SECRET, PUBLIC.key_id: PUBLIC}
    return known.get(key_id)


def code_of(request: Message, now: float = NOW + 1) -> str:
    """Why it is refused."""
    with pytest.raises(Refused) as caught:
        v1.verify(request, find, now)
    assert caught.value.detail
    return caught.value.code


class TestVectors:
    def test_hmac_of_rfc_9421_b_2_5(self) -> None:
        key = SharedSecret(
            "test-shared-secret",
            b64decode("uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="),
        )
        field = 'sig-b25=("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
        base = v1.base(RFC_REQUEST, signature_inputs(field)["sig-b25"])
        assert b64encode(key.sign(base)) == b"pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="

    def test_ed25519_of_rfc_9421_b_2_6(self) -> None:
        public = urlsafe_b64decode("JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs=")
        key = PublicKey("test-key-ed25519", Ed25519PublicKey.from_public_bytes(public))
        field = (
            'sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473'
            ';keyid="test-key-ed25519"'
        )
        signature = b64decode(
            "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
        )
        base = v1.base(RFC_REQUEST, signature_inputs(field)["sig-b26"])
        assert key.verifies(signature, base)
        assert not key.verifies(signature, base + b" ")


class _Keys(HTTPSignatureKeyResolver):
    def resolve_public_key(self, key_id: str) -> Any:
        return {SECRET.key_id: SECRET.secret, PUBLIC.key_id: PUBLIC.key}[key_id]

    def resolve_private_key(self, key_id: str) -> Any:
        return {SECRET.key_id: SECRET.secret, PRIVATE.key_id: PRIVATE.key}[key_id]


@pytest.mark.parametrize("algorithm", ["hmac-sha256", "ed25519"])
class TestBesideAnotherImplementation:
    URL = "https://api.example.com/v1/deals?expand=stage"

    def algorithm(self, name: str) -> Any:
        return algorithms.HMAC_SHA256 if name == "hmac-sha256" else algorithms.ED25519

    def test_it_verifies_what_is_signed_here(self, algorithm: str) -> None:
        key = SECRET if algorithm == "hmac-sha256" else PRIVATE
        now = int(datetime.now(UTC).timestamp())
        request = message(more={"idempotency-key": '"order-7"'})
        fields = {**request.fields, **v1.sign(request, key, nonce=NONCE, created=now)}
        theirs = httpx.Request("POST", self.URL, content=CONTENT, headers=fields)
        verifier = HTTPMessageVerifier(signature_algorithm=self.algorithm(algorithm), key_resolver=_Keys())
        (result,) = verifier.verify(theirs, expect_tag=v1.TAG, body=CONTENT, require_components=("@method", "@path"))
        assert result.parameters["nonce"] == NONCE

    def test_what_it_signs_is_verified_here(self, algorithm: str) -> None:
        key = SECRET if algorithm == "hmac-sha256" else PRIVATE
        now = datetime.now(UTC)
        theirs = httpx.Request(
            "POST", self.URL, content=CONTENT, headers={**message().fields, "user-agent": "theirs/1"}
        )
        signer = HTTPMessageSigner(signature_algorithm=self.algorithm(algorithm), key_resolver=_Keys())
        covered = ("content-type", "@query", "@path", "content-digest", "@authority", "@method", "user-agent")
        signer.sign(
            theirs, key_id=key.key_id, created=now, expires=datetime.fromtimestamp(now.timestamp() + 60, UTC),
            nonce=NONCE, label="theirs", tag=v1.TAG, body=CONTENT, use_existing_digest=True, covered_component_ids=covered,
        )  # fmt: skip
        pairs = [(name.lower().encode(), value.encode()) for name, value in theirs.headers.items()]
        request = Message("POST", b"/v1/deals", b"expand=stage", pairs)
        verified = v1.verify(request, find, now.timestamp())
        assert verified.nonce == NONCE
        assert verified.digest is not None
        verified.digest.update(CONTENT)
        verified.digest.check()


def test_a_signature_holds_for_this_request_alone() -> None:
    request = signed()
    verified = v1.verify(request, find, NOW + 1)
    assert (verified.nonce, verified.until) == (NONCE, NOW + 300)
    others = [
        with_fields(request, {}, method="PUT"),
        with_fields(request, {}, path=b"/v1/deals/7"),
        with_fields(request, {}, query=b"expand=company"),
        with_fields(request, {}, query=b""),
        with_fields(request, {"host": "other.example.com"}),
        with_fields(request, {"content-type": "text/plain"}),
        with_fields(request, {"content-digest": message(content=b"{}").fields["content-digest"]}),
    ]
    assert {code_of(each) for each in others} == {"signature_mismatch"}


def test_content_that_was_changed_is_found_at_its_end() -> None:
    digest = v1.verify(signed(), find, NOW).digest
    assert digest is not None
    digest.update(CONTENT[:5])
    digest.update(CONTENT[5:-1])
    with pytest.raises(Refused, match="Content-Digest"):
        digest.check()


def test_a_request_without_content_needs_no_digest() -> None:
    request = signed(message("GET", content=b""))
    assert v1.verify(request, find, NOW).digest is None
    later = with_fields(request, {"content-length": "2"})
    assert code_of(later) == "signature_incomplete"
    assert code_of(with_fields(request, {"transfer-encoding": "chunked"})) == "signature_incomplete"


@pytest.mark.parametrize("name", ["content-type", "idempotency-key", "content-digest"])
def test_what_was_added_afterwards_is_not_covered(name: str) -> None:
    bare = signed(message("GET", content=b""))
    value = {"content-digest": message().fields["content-digest"]}.get(name, "x")
    assert code_of(with_fields(bare, {name: value})) == "signature_incomplete"


@pytest.mark.parametrize(
    ("offset", "code"),
    [(-301, "signature_time"), (-299, ""), (0, ""), (299, ""), (300, "signature_time"), (10_000, "signature_time")],
)
def test_a_signature_is_good_for_five_minutes_either_way(offset: int, code: str) -> None:
    if code:
        assert code_of(signed(), now=NOW + offset) == code
    else:
        assert v1.verify(signed(), find, NOW + offset).created == NOW


def _changed(old: str, new: str) -> Message:
    request = signed()
    field = request.fields["signature-input"]
    assert old in field
    return with_fields(request, {"signature-input": field.replace(old, new)})


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('keyid="0123456789"', 'keyid="nobody"', "signature_key"),
        ('keyid="0123456789"', 'keyid="9876543210"', "signature_algorithm"),
        ('alg="hmac-sha256"', 'alg="ed25519"', "signature_algorithm"),
        (';alg="hmac-sha256"', "", "signature_incomplete"),
        (';keyid="0123456789"', "", "signature_incomplete"),
        (f';nonce="{NONCE}"', "", "signature_incomplete"),
        (f';nonce="{NONCE}"', ';nonce="short"', "signature_incomplete"),
        (f";expires={NOW + 300}", "", "signature_incomplete"),
        (f";expires={NOW + 300}", f";expires={NOW + 301}", "signature_time"),
        (f";expires={NOW + 300}", f";expires={NOW}", "signature_time"),
        (f"created={NOW}", f'created="{NOW}"', "signature_incomplete"),
        ('tag="guardian-v1"', 'tag="guardian-v2"', "signature_missing"),
        ('"@method" ', "", "signature_incomplete"),
        ('"@path" ', "", "signature_incomplete"),
        ('"@query" ', "", "signature_incomplete"),
        ('"@authority" ', "", "signature_incomplete"),
        ('"@path" ', '"@path" "@target-uri" ', "signature_malformed"),
        ('"@path" ', '"@path" "x-none" ', "signature_incomplete"),
        ('"@path" ', '"@path" "@path" ', "signature_malformed"),
        ('"@path" ', '"@path" "content-type";bs ', "signature_malformed"),
        ('"@path" ', '"@path" "Host" ', "signature_malformed"),
        ("gdn=", "other=", "signature_missing"),
        ("gdn=(", "gdn=( ", "signature_malformed"),
        ("gdn=", "gdn", "signature_malformed"),
    ],
)
def test_each_check_has_its_code(old: str, new: str, code: str) -> None:
    assert code_of(_changed(old, new)) == code


def test_others_may_sign_besides() -> None:
    request = signed()
    both = {
        "signature-input": f'proxy=("host");created=1;keyid="p", {request.fields["signature-input"]}',
        "signature": f"proxy=:AAAA:, {request.fields['signature']}",
    }
    assert v1.verify(with_fields(request, both), find, NOW).nonce == NONCE
    twice = f"{request.fields['signature-input']}, {request.fields['signature-input'].replace('gdn', 'other')}"
    assert code_of(with_fields(request, {"signature-input": twice})) == "signature_missing"


def test_no_field_can_end_the_check_otherwise() -> None:
    """Fields as a fuzzer writes them: refused with a code, all of them."""
    chance = random.Random(9421)
    request = signed()
    names = ("signature-input", "signature", "content-digest")
    alphabet = string.printable[:95] + '";=():,\t\xe9'
    for _ in range(10_000):
        name = chance.choice(names)
        text = list(request.fields[name])
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(text))
            match chance.randrange(3):
                case 0:
                    text[place] = chance.choice(alphabet)
                case 1:
                    del text[place]
                case _:
                    text.insert(place, chance.choice(alphabet))
        mangled = "".join(text)
        if mangled.strip(" \t") != request.fields[name]:
            try:
                verified = v1.verify(with_fields(request, {name: mangled}), find, NOW)
            except Refused:
                continue
            # Only what is not signed may differ: another algorithm's digest, or parameters of the signature itself.
            assert name != "signature-input", mangled
            assert verified.nonce == NONCE
