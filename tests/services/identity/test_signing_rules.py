from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.identity.signing_keys.domain import can_be_signed, is_sound, new_secret


def test_a_secret_is_text_of_256_bits() -> None:
    first, second = new_secret(), new_secret()
    assert first.startswith("gdns_")
    assert len(first) == 48
    assert first.isascii()
    assert first[5:].isalnum()
    assert first != second


@pytest.mark.parametrize(
    "policy, algorithms, possible",
    [
        ("off", [], True), ("v1", [], False), ("v1", ["ed25519"], True), ("v1", ["hmac-sha256"], True),
        ("v0", ["ed25519"], False), ("v0", ["hmac-sha256"], True), ("both", ["ed25519"], False),
        ("both", ["ed25519", "hmac-sha256"], True),
    ],
)  # fmt: skip
def test_the_older_scheme_knows_shared_secrets_alone(policy: Any, algorithms: list[str], possible: bool) -> None:
    assert can_be_signed(policy, algorithms) is possible


def test_every_real_public_key_is_sound() -> None:
    for _ in range(100):
        assert is_sound(Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


# https://github.com/jedisct1/libsodium: the points of small order, with and without the sign, and beyond the prime.
@pytest.mark.parametrize("sign", [0, 0x80])
@pytest.mark.parametrize(
    "encoded",
    [
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    ],
)
def test_a_key_that_anybody_can_sign_for_is_not(encoded: str, sign: int) -> None:
    raw = bytearray.fromhex(encoded)
    raw[31] |= sign
    Ed25519PublicKey.from_public_bytes(bytes(raw))  # OpenSSL has nothing against it
    assert not is_sound(bytes(raw))


def test_nor_is_what_is_no_point_of_the_curve() -> None:
    assert not is_sound((2).to_bytes(32, "little"))
    assert not is_sound(bytes(31))


def test_nor_is_a_point_that_is_written_in_another_way() -> None:
    sound = [y for y in range(19) if is_sound(y.to_bytes(32, "little"))]
    assert sound
    assert [y for y in sound if is_sound((y + 2**255 - 19).to_bytes(32, "little"))] == []
