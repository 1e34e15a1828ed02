"""The older scheme, explained; and which of the two a request is explained by."""

import dataclasses
import hashlib
import hmac
from base64 import b64encode
from typing import Any

import pytest

from services.identity.signatures.domain.explain import Policy, explain
from services.identity.signatures.domain.explanation import Explanation, Keys
from services.identity.signatures.domain.request import request_of, target_of
from shared.signing.keys import PublicKey
from tests.services.identity.explained import KEYS, RIGHT, one_hint
from tests.services.identity.handmade import API_KEY_ID, CONTENT, KEY_ID, NOW, SECRET, Handmade, by_hmac
from tests.shared.signing.support import PRIVATE

URL = "https://api.example.com/v1/contacts?limit=5"
TIME = str(NOW * 1000)
RAW = SECRET.encode()


def told(
    text: bytes, time: str = TIME, *, sign: Any = None, write: Any = bytes.hex, content: bytes = CONTENT,
    policy: Policy = "v0", keys: Keys = KEYS,
) -> Explanation:  # fmt: skip
    """What is said of a request whose ``X-Signature`` is made of ``text``."""
    headers = {
        "Content-Type": "application/json",
        "X-Timestamp": time,
        "X-Signature": write((sign or by_hmac(SECRET))(text)),
    }
    found = explain(request_of("POST", target_of(URL), headers, content), policy, keys, NOW)
    assert SECRET[5:] not in repr(dataclasses.asdict(found))
    assert (found.scheme, found.valid) == ("v0", found.code is None)
    return found


def test_a_valid_one() -> None:
    found = told(TIME.encode() + b":" + CONTENT)
    assert (found.valid, found.hints) == (True, [])
    assert found.signature_base == f"{TIME}:{CONTENT.decode()}"
    assert [(each.name, each.covered, each.problem) for each in found.components] == [
        ("x-timestamp", True, None), ("content", True, None),
    ]  # fmt: skip
    assert [each.problem for each in found.parameters] == [None, None]
    assert found.content_digest.matches is None
    assert told(TIME.encode() + b":", content=b"").valid


BEGIN = TIME.encode() + b":"
TEXTS: list[tuple[bytes, str]] = [
    (str(NOW).encode() + b":" + CONTENT, "the time in the text is in seconds; sign the very digits of X-Timestamp"),
    (TIME.encode() + CONTENT, "time and content are joined without a colon"),
    (TIME.encode() + b"." + CONTENT, "joined by a point"),
    (CONTENT + b":" + TIME.encode(), "the content stands before the time"),
    (CONTENT, "the content is signed alone"),
    (BEGIN + CONTENT + b"\n", "the content has a line end at its end"),
    (BEGIN, "the content is empty"),
    (BEGIN + b'{"first_name": "Ada", "notes": "caf\\u00e9"}', "the content's JSON is written in another way"),
    (BEGIN + hashlib.sha256(CONTENT).hexdigest().encode(), "the content's SHA-256 in hexadecimal is signed"),
    (BEGIN + b"POST:/v1/contacts:" + CONTENT, "method and path are signed, too"),
    (TIME.encode() + b"POST/v1/contacts?limit=5" + CONTENT, "method, path and query are signed, too"),
    (str(NOW).encode() + b"." + CONTENT + b"\n", "in seconds and the content has a line end at its end and time and"),
    (b"something else", "No usual mistake explains the signature"),
]


@pytest.mark.parametrize(("text", "says"), TEXTS)
def test_another_text_was_signed(text: bytes, says: str) -> None:
    found = told(text)
    assert found.code == "signature_mismatch"
    assert says in one_hint(found)


@pytest.mark.parametrize(
    ("sign", "says"),
    [
        (by_hmac(SECRET[5:]), "the secret lacks its beginning, gdns_"),
        (by_hmac(SECRET + "\n"), "a line end at its end"),
        (lambda text: hmac.new(RAW, text, "sha512").digest()[:32], "No usual mistake"),
        (lambda text: hashlib.sha256(RAW + text).digest(), "a plain SHA-256 of the secret and the text"),
    ],
)
def test_another_secret_or_function_was_used(sign: Any, says: str) -> None:
    assert says in one_hint(told(BEGIN + CONTENT, sign=sign))


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda raw: b64encode(raw).decode(), "this is base64"),
        (lambda raw: f"sha256={raw.hex()}", "leave out what stands around them"),
        (lambda raw: f"v0={raw.hex()}", "leave out what stands around them"),
        (lambda raw: b64encode(raw.hex().encode()).decode(), "the base64 of its hexadecimal text"),
    ],
)
def test_the_signature_is_written_otherwise(write: Any, says: str) -> None:
    found = told(BEGIN + CONTENT, write=write)
    assert found.code == "signature_malformed"
    assert says in found.hints[0]
    assert says in (found.parameters[1].problem or "")
    assert found.hints[1].startswith(RIGHT)


@pytest.mark.parametrize("field", ["", "zz", "abc", "\xe9", "a" * 500, "12" * 32 + "34"])
def test_what_is_no_signature_at_all(field: str) -> None:
    found = told(BEGIN + CONTENT, write=lambda _: field)
    assert found.code in {"signature_malformed", "signature_missing"}
    assert "64 hexadecimal digits" in (found.parameters[1].problem or "")


@pytest.mark.parametrize(
    ("time", "code", "says"),
    [
        (str(NOW), "signature_time", "It is in seconds; milliseconds are asked for."),
        (str(NOW * 1000 - 412_000), "signature_time", "It was 412 s ago; 300 s are allowed. Sign each request anew"),
        (str(NOW * 1000 + 412_000), "signature_time", "412 s ahead of the gateway's clock"),
        ("2026-01-15T12:00:00Z", "signature_malformed", "in digits alone"),
        ("1" * 500, "signature_malformed", "that has 13 digits"),
        ("\xb2" * 13, "signature_malformed", "in digits alone"),
    ],
)
def test_the_time_is_wrong(time: str, code: str, says: str) -> None:
    found = told(time.encode("latin-1") + b":" + CONTENT, time)
    assert found.code == code
    assert says in (found.components[0].problem or "")
    assert found.components[0].problem == found.parameters[0].problem
    assert found.hints[0] == f"X-Timestamp: {found.parameters[0].problem}"
    assert found.hints[1].startswith(RIGHT)


def test_it_needs_a_shared_secret() -> None:
    found = told(BEGIN + CONTENT, keys=Keys(API_KEY_ID, [PublicKey(KEY_ID, PRIVATE.key.public_key())]))
    assert found.code == "signature_key"
    assert "needs a shared secret" in one_hint(found)


def test_content_that_is_no_text() -> None:
    content = b"\xff\x00" + bytes(range(256))
    assert told(BEGIN + content, content=content).valid
    assert len(told(BEGIN + b"x" * 100_000, content=b"x" * 100_000).signature_base) == 20_000


class TestWhichScheme:
    def ask(self, policy: Policy, *schemes: str) -> Explanation:
        headers = Handmade().fields() if "v1" in schemes else {}
        if "v0" in schemes:
            headers |= {"X-Timestamp": TIME, "X-Signature": by_hmac(SECRET)(BEGIN + CONTENT).hex()}
        return explain(request_of("POST", target_of(Handmade().url), headers, CONTENT), policy, KEYS, NOW)

    @pytest.mark.parametrize(
        ("policy", "schemes", "scheme"),
        [
            ("v1", ("v1",), "v1"), ("v0", ("v0",), "v0"), ("both", ("v1",), "v1"), ("both", ("v0",), "v0"),
            ("both", ("v0", "v1"), "v0"), ("off", ("v0",), "v0"), ("off", ("v0", "v1"), "v1"),
        ],
    )  # fmt: skip
    def test_the_one_that_the_gateway_takes(self, policy: Policy, schemes: tuple[str, ...], scheme: str) -> None:
        found = self.ask(policy, *schemes)
        assert (found.scheme, found.valid) == (scheme, True)
        assert ("signature_policy is off" in str(found.hints)) == (policy == "off")

    @pytest.mark.parametrize(("policy", "signed"), [("v1", "v0"), ("v0", "v1")])
    def test_the_other_one(self, policy: Policy, signed: str) -> None:
        found = self.ask(policy, signed)
        assert (found.scheme, found.code) == (policy, "signature_missing")
        names = {"v0": "by the older scheme (v0)", "v1": "by RFC 9421 (v1)"}
        says = f"The request is signed {names[signed]}, and this API key's signature_policy asks for {policy}:"
        assert found.hints[0].startswith(says)
        assert str(found.hints).count("The request is signed") == 1
        assert "The request is signed" in found.detail
        assert f"Sign it {names[policy]}" in found.hints[0]
        assert f'PATCH /v1/api-keys/{API_KEY_ID} with {{"signature_policy": "both"}}' in found.hints[0]
        assert "The request is not signed" not in str(found.hints)
