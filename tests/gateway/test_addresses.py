from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.addresses import client_of, forwarded_proto, is_loopback, parse_networks, within

TRUSTED = parse_networks(["127.0.0.1", "10.0.0.0/8", "2001:db8::/32"])


@pytest.mark.parametrize(
    "peer, forwarded, x_forwarded_for, client",
    [
        ("8.8.8.8", None, b"1.1.1.1", "8.8.8.8"),
        ("8.8.8.8", b"for=1.1.1.1", None, "8.8.8.8"),
        ("127.0.0.1", None, None, "127.0.0.1"),
        ("127.0.0.1", None, b"1.1.1.1", "1.1.1.1"),
        ("127.0.0.1", None, b"6.6.6.6, 1.1.1.1", "1.1.1.1"),
        ("127.0.0.1", None, b"6.6.6.6, 1.1.1.1, 10.1.2.3", "1.1.1.1"),
        ("127.0.0.1", None, b"10.1.1.1, 10.1.2.3", "10.1.1.1"),
        ("127.0.0.1", None, b"nonsense", "127.0.0.1"),
        ("127.0.0.1", None, b"1.1.1.1:55", "1.1.1.1"),
        ("127.0.0.1", None, b"[2001:db9::1]:55", "2001:db9::1"),
        ("::ffff:127.0.0.1", None, b"1.1.1.1", "1.1.1.1"),
        ("127.0.0.1", b"for=1.1.1.1;proto=https", None, "1.1.1.1"),
        ("127.0.0.1", b'For="[2001:db9::1]:47011"', None, "2001:db9::1"),
        ("127.0.0.1", b"for=6.6.6.6, for=1.1.1.1;by=10.0.0.1, for=10.0.0.9", None, "1.1.1.1"),
        ("127.0.0.1", b"for=unknown", None, "127.0.0.1"),
        ("127.0.0.1", b"for=_hidden", None, "127.0.0.1"),
        ("127.0.0.1", b"for=1.1.1.1", b"1.1.1.1", "1.1.1.1"),
        ("127.0.0.1", b"for=6.6.6.6", b"1.1.1.1", "127.0.0.1"),
    ],
)
def test_the_nearest_address_nobody_trusts_is_the_client(
    peer: str, forwarded: bytes | None, x_forwarded_for: bytes | None, client: str
) -> None:
    assert client_of(peer, TRUSTED, forwarded, x_forwarded_for) == client


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_no_header_can_break_it_and_the_answer_is_an_address(forwarded: bytes, x_forwarded_for: bytes) -> None:
    found = client_of("127.0.0.1", TRUSTED, forwarded, x_forwarded_for)
    assert within(found, parse_networks(["0.0.0.0/0", "::/0"]))
    assert forwarded_proto(forwarded, x_forwarded_for) in (None, "http", "https")


@pytest.mark.parametrize(
    "forwarded, proto, expected",
    [
        (None, b"https", "https"),
        (None, b"http, https", "https"),
        (b"for=1.1.1.1;proto=https", None, "https"),
        (b"proto=http, proto=https", None, "https"),
        (None, b"gopher", None),
        (None, None, None),
    ],
)
def test_the_scheme_is_what_the_nearest_proxy_states(
    forwarded: bytes | None, proto: bytes | None, expected: str | None
) -> None:
    assert forwarded_proto(forwarded, proto) == expected


def test_loopback() -> None:
    assert is_loopback("127.0.0.53")
    assert is_loopback("::1")
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("10.0.0.1")
    assert not is_loopback("")


def test_networks_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="not-a-network"):
        parse_networks(["not-a-network"])


def test_behind_a_trusted_proxy_the_service_sees_client_and_scheme(start: Any, offline_settings: Any) -> None:
    settings = offline_settings.model_copy(update={"trusted_proxies": ["127.0.0.1"]})
    with start(settings) as front:
        reply = front.get("/v1/echo", "X-Forwarded-For: 9.9.9.9", "X-Forwarded-Proto: https")
        assert (reply.json["client"], reply.json["scheme"]) == ("9.9.9.9", "https")
        assert "strict-transport-security" in reply.headers
        assert front.header("x-forwarded-for") == []
