"""Client addresses: whom a request came from, when proxies we trust stand in between."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

_FORWARDED_PAIR = re.compile(r'\s*([A-Za-z]+)=(?:"([^"\\]*)"|([^\s;,"]+))\s*')


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and CIDR blocks; raises ``ValueError`` for anything else."""
    return tuple(ip_network(text.strip()) for text in texts if text.strip())


@lru_cache(maxsize=4096)
def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """An address, IPv4 within IPv6 unwrapped; None when the text is not one."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=4096)
def within(text: str, networks: tuple[Network, ...]) -> bool:
    """Whether the address lies in one of the networks."""
    address = parse_address(text)
    return address is not None and any(address.version == n.version and address in n for n in networks)


def is_loopback(text: str) -> bool:
    """Whether the address is this machine's own."""
    address = parse_address(text)
    return address is not None and address.is_loopback


def client_of(peer: str, trusted: tuple[Network, ...], forwarded: bytes | None, x_forwarded_for: bytes | None) -> str:
    """The nearest address that is not a trusted proxy.

    Headers count only when the peer is a trusted proxy. When both headers are present and disagree, one
    of them is the client's own invention and nobody can say which: the peer's address is used.
    """
    if not trusted or not within(peer, trusted):
        return peer
    chains = []
    if forwarded is not None:
        chains.append(_forwarded_chain(forwarded))
    if x_forwarded_for is not None:
        chains.append([hop.strip() for hop in x_forwarded_for.decode("latin-1").split(",")])
    found = {_nearest_untrusted(peer, chain, trusted) for chain in chains}
    return found.pop() if len(found) == 1 else peer


def forwarded_proto(forwarded: bytes | None, x_forwarded_proto: bytes | None) -> str | None:
    """``http`` or ``https`` as the proxy next to us states it; None when it does not."""
    proto = ""
    if x_forwarded_proto is not None:
        proto = x_forwarded_proto.decode("latin-1").rpartition(",")[2].strip().lower()
    elif forwarded is not None:
        proto = _pairs(forwarded.decode("latin-1").rpartition(",")[2]).get("proto", "").lower()
    return proto if proto in ("http", "https") else None


def _nearest_untrusted(peer: str, chain: Sequence[str], trusted: tuple[Network, ...]) -> str:
    nearest = peer
    for hop in reversed(chain):
        address = parse_address(_without_port(hop))
        if address is None:
            return nearest
        nearest = str(address)
        if not within(nearest, trusted):
            break
    return nearest


def _forwarded_chain(header: bytes) -> list[str]:
    return [_pairs(element).get("for", "") for element in header.decode("latin-1").split(",")]


def _pairs(element: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in element.split(";"):
        match = _FORWARDED_PAIR.fullmatch(part)
        if match is not None:
            pairs[match[1].lower()] = match[2] if match[2] is not None else match[3]
    return pairs


def _without_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def origin_of(
    peer: str, trusted: tuple[Network, ...], noted: Mapping[bytes, bytes], *, secure: bool
) -> tuple[str, bool]:
    """Whose request it is, and whether it came by https: as the connection says, or the proxies that are trusted."""
    if not trusted or not within(peer, trusted):
        return peer, secure
    forwarded = noted.get(b"forwarded")
    proto = forwarded_proto(forwarded, noted.get(b"x-forwarded-proto"))
    client = client_of(peer, trusted, forwarded, noted.get(b"x-forwarded-for"))
    return client, proto == "https" if proto else secure
