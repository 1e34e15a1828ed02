"""A request as it was sent, as far as a signature can see it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from shared.signing.message import Message

Scheme = Literal["http", "https"]
DEFAULT_PORTS: Mapping[Scheme, str] = {"http": ":80", "https": ":443"}
_HOST = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_LONGEST_SHOWN = 200


class Target(NamedTuple):
    """A URL's parts as they stand there. ``host`` has its port, and is empty where the URL is only a path."""

    scheme: Scheme
    host: str
    path: str
    query: str


@dataclass(frozen=True, slots=True)
class Sent:
    """``path`` and ``query`` are raw; ``fields`` are the header fields by their names in lower case, each byte of a value
    one character (latin-1). ``host_of_url`` is empty where the URL did not say.
    """

    method: str
    scheme: Scheme
    host_of_url: str
    path: str
    query: str
    fields: Mapping[str, str]
    content: bytes

    @property
    def host(self) -> str:
        """As it was sent."""
        return self.fields.get("host", "")

    @property
    def authority(self) -> str:
        """The host in lower case, without the scheme's own port (RFC 9421 §2.2.3)."""
        return self.host.lower().removesuffix(DEFAULT_PORTS[self.scheme])

    @property
    def has_body(self) -> bool:
        """Whether the gateway expects content."""
        return "transfer-encoding" in self.fields or self.fields.get("content-length", "0") != "0"

    def message(self) -> Message:
        """The same as the gateway verifies it."""
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.fields.items()]
        return Message(
            self.method, self.path.encode("latin-1"), self.query.encode("latin-1"), pairs, scheme=self.scheme
        )


def target_of(url: str) -> Target:
    """The parts of a whole URL, or of a path with its query (then https is assumed); raises ``ValueError``.

    A name and password in it are left out, as clients do: they are sent as a header field.
    """
    scheme, separator, rest = url.partition("://")
    known: Scheme | None = "https" if scheme.lower() == "https" else "http" if scheme.lower() == "http" else None
    if separator and known is not None:
        end = min((place for place in (rest.find("/"), rest.find("?")) if place >= 0), default=len(rest))
        host, rest = rest[:end].rpartition("@")[2], rest[end:]
        if not is_host(host):
            raise ValueError("has no host")
    elif url.startswith("/"):
        known, host, rest = "https", "", url
    else:
        raise ValueError("is neither a whole URL (https://…) nor a path that begins with '/'")
    path, _, query = rest.partition("?")
    return Target(known, host, path or "/", query)


def is_host(text: str) -> bool:
    """Whether this is one host with an optional port."""
    return _HOST.fullmatch(text) is not None


def request_of(method: str, target: Target, headers: Mapping[str, str], content: bytes) -> Sent:
    """``Host`` and ``Content-Length`` are added where they were left out, as every client does."""
    fields: dict[str, str] = {}
    for name, value in headers.items():
        key, text = name.lower(), _one_character_a_byte(value).strip(" \t")
        fields[key] = f"{fields[key]}, {text}" if key in fields else text
    if target.host:
        fields.setdefault("host", target.host)
    if content and "transfer-encoding" not in fields:
        fields.setdefault("content-length", str(len(content)))
    return Sent(method, target.scheme, target.host, target.path, target.query, fields, content)


def shortened(text: str) -> str:
    """``text`` for a sentence: its beginning, when it is long."""
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"


def legible(text: str | bytes) -> str:
    """Bytes (or latin-1, one character a byte) as the text they are: UTF-8 where it can be, latin-1 otherwise."""
    raw = text.encode("latin-1", "replace") if isinstance(text, str) else text
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _one_character_a_byte(value: str) -> str:
    # Clients send latin-1, and UTF-8 where that cannot hold it.
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode().decode("latin-1")
    return value
