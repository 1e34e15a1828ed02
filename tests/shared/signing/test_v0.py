"""The older scheme, and each of the ways in which it is weaker when it is taken as it is written."""

import hashlib
import hmac

import pytest

from shared.signing import v0
from shared.signing.failures import Refused
from shared.signing.message import Message
from tests.shared.signing.support import CONTENT, NOW, SECRET, message, with_fields

TIME = NOW * 1000 + 17


def checked(request: Message, content: bytes = CONTENT, now: float = NOW) -> v0.Verification:
    verification = v0.Verification(request, SECRET, now)
    verification.update(content[:3])
    verification.update(content[3:])
    verification.check()
    return verification


def code_of(request: Message, content: bytes = CONTENT, now: float = NOW) -> str:
    with pytest.raises(Refused) as caught:
        checked(request, content, now)
    return caught.value.code


def signed(content: bytes = CONTENT, milliseconds: int = TIME) -> Message:
    return with_fields(message(content=content), v0.sign(SECRET.secret, milliseconds, content))


def test_bit_for_bit() -> None:
    by_hand = hmac.new(SECRET.secret, b"1767225600017:" + CONTENT, hashlib.sha256).hexdigest()
    fields = v0.sign(SECRET.secret, TIME, CONTENT)
    assert fields == {"X-Timestamp": "1767225600017", "X-Signature": by_hand}
    upper = with_fields(message(), {"x-timestamp": fields["X-Timestamp"], "x-signature": by_hand.upper()})
    assert checked(upper).nonce == by_hand, "the same signature, however it is written, is good once"
    assert checked(signed(b""), b"").until == NOW + 301


@pytest.mark.parametrize("seconds", [-301, 301, 10_000_000])
def test_a_time_is_as_wrong_ahead_as_behind(seconds: int) -> None:
    assert code_of(signed(milliseconds=(NOW + seconds) * 1000)) == "signature_time"


@pytest.mark.parametrize("time", ["", "NaN", "Infinity", "-1767225600017", "1767225600017:", "1767225600017 ", "1e12"])
def test_a_time_that_is_no_number_passes_no_check(time: str) -> None:
    signature = hmac.new(SECRET.secret, f"{time}:".encode() + CONTENT, hashlib.sha256).hexdigest()
    fields = {"x-timestamp": time or "x", "x-signature": signature}
    request = with_fields(message(), fields)
    if request.fields["x-timestamp"].isdigit():
        assert time.endswith(" ")  # space around a field's value is not part of it
        assert code_of(request) == "signature_mismatch"
    else:
        assert code_of(request) == "signature_malformed"


def test_the_colon_cannot_be_moved() -> None:
    """``1767225600017:AB`` and ``C`` sign the same text as ``1767225600017`` and ``AB:C``."""
    signature = hmac.new(SECRET.secret, b"1767225600017:AB:C", hashlib.sha256).hexdigest()
    moved = with_fields(message(), {"x-timestamp": "1767225600017:AB", "x-signature": signature})
    assert code_of(moved, b"C") == "signature_malformed"
    right = with_fields(message(), {"x-timestamp": "1767225600017", "x-signature": signature})
    assert checked(right, b"AB:C").holds()


def test_bytes_that_are_no_text_are_compared_as_bytes() -> None:
    request = signed(b"\xff\xfe")
    assert checked(request, b"\xff\xfe").holds()
    assert code_of(request, b"\xff\xfd") == "signature_mismatch"


@pytest.mark.parametrize("signature", ["", "00" * 31, "00" * 33, "zz" * 32, "0x" + "0" * 62])
def test_a_signature_is_64_hexadecimal_digits(signature: str) -> None:
    fields = {"x-timestamp": str(TIME), "x-signature": signature}
    code = "signature_malformed" if signature else "signature_missing"
    assert code_of(with_fields(message(), fields)) == code


def test_both_fields_are_needed() -> None:
    assert code_of(with_fields(message(), {"x-timestamp": str(TIME)})) == "signature_missing"
    assert not v0.is_signed(message())
    assert v0.is_signed(signed())
