"""The keyed hash is HMAC-SHA256 as the standard library has it."""

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from shared.mac import KeyedSha256


@given(st.binary(max_size=200), st.binary(max_size=300), st.binary(max_size=300))
def test_it_is_the_hmac_of_the_standard_library(key: bytes, first: bytes, second: bytes) -> None:
    mac = KeyedSha256(key)
    assert mac.digest(first) == hmac.digest(key, first, hashlib.sha256)
    assert mac.begun(first).digest(second) == hmac.digest(key, first + second, hashlib.sha256)
