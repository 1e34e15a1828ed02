"""The internal identity: every way it can be wrong is refused."""

import dataclasses
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.auth import IdentitySigner, IdentityVerifier, InvalidIdentity, Principal
from shared.errors import Forbidden, Unauthenticated
from shared.ids import new_id
from shared.settings import Settings

NOW = 1_800_000_000.0
derive = Settings().derive_key
verifier = IdentityVerifier(derive, "crm", ["gateway", "health"])
principal = Principal(
    new_id(), "api_key", "key-1", frozenset({"contacts:read", "contacts:write"}), "api_key", 1_799_999_000,
    "someone", None, "127.0.0.1", "req-1",
)  # fmt: skip


def _signed(audience: str = "crm", caller: str = "gateway", now: float = NOW) -> bytes:
    return IdentitySigner(derive, caller).sign(principal, audience, now)


@pytest.mark.parametrize("caller", ["gateway", "health"])
def test_what_was_signed_is_what_is_read(caller: str) -> None:
    assert verifier.verify(_signed(caller=caller), NOW) == principal


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"", "malformed"),
        (b"v1.gateway.x", "malformed"),
        (b"v1.gateway.x.y.z", "malformed"),
        (_signed(caller="crm"), "not allowed"),
        (_signed(audience="audit"), "signature"),
        (_signed()[:-44] + b"A" * 43 + b"=", "signature"),
        (_signed().replace(b"v1.gateway", b"v1.health"), "signature"),
        (_signed().replace(b"v1.", b"v2.", 1), "signature"),
        (_signed(now=NOW - 3600), "expired"),
        (_signed(now=NOW + 3600), "expired"),
    ],
)
def test_refused(header: bytes, why: str) -> None:
    with pytest.raises(InvalidIdentity, match=why):
        verifier.verify(header, NOW)


def test_another_secret_is_refused() -> None:
    other = IdentitySigner(Settings.model_validate({"secret_key": "another " * 8}).derive_key, "gateway")
    with pytest.raises(InvalidIdentity):
        verifier.verify(other.sign(principal, "crm", NOW), NOW)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_verifier(junk: bytes) -> None:
    for header in (junk, b"v1.gateway." + urlsafe_b64encode(junk) + b"." + urlsafe_b64encode(junk[:32])):
        with pytest.raises(InvalidIdentity):
            verifier.verify(header, NOW)


@given(st.integers(min_value=0, max_value=len(_signed()) - 1), st.integers(min_value=1, max_value=255))
def test_no_flipped_byte_is_accepted(position: int, change: int) -> None:
    damaged = bytearray(_signed())
    damaged[position] ^= change
    with pytest.raises(InvalidIdentity):
        verifier.verify(bytes(damaged), NOW)


def test_scopes() -> None:
    principal.require("contacts:read")
    with pytest.raises(Forbidden) as refused:
        principal.require("deals:read")
    assert refused.value.code == "missing_scope"
    with pytest.raises(Unauthenticated):
        dataclasses.replace(principal, actor_type="anonymous").require("deals:read")


def test_only_people_have_a_user_id() -> None:
    user = new_id()
    assert dataclasses.replace(principal, actor_type="user", actor_id=str(user)).user_id == user
    assert principal.user_id is None
