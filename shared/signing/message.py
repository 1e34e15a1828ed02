"""A request as far as it can be signed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from shared.signing.failures import Refused, malformed

Pair = tuple[bytes, bytes]
DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def fields_of(headers: Sequence[Pair]) -> dict[str, str]:
    """Fields by name: values of several lines together, without the space around them (RFC 9421 §2.1)."""
    found: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1"), value.decode("latin-1").strip(" \t")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def has_content(fields: Mapping[bytes, bytes]) -> bool:
    """Whether content follows a head with these fields, or may follow."""
    return b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0"


class Message:
    """``path`` and ``query`` are raw, as they stood in the request line; header names are lower case."""

    __slots__ = ("__dict__", "headers", "method", "path", "query", "scheme")

    def __init__(
        self, method: str, path: bytes, query: bytes, headers: Sequence[Pair], *, scheme: str = "https"
    ) -> None:
        self.method = method
        self.path = path or b"/"
        self.query = query
        self.headers = headers
        self.scheme = scheme

    @cached_property
    def fields(self) -> dict[str, str]:
        """As ``fields_of``."""
        return fields_of(self.headers)

    @cached_property
    def last(self) -> dict[bytes, bytes]:
        """Fields by name as they came; of several lines the last."""
        return dict(self.headers)

    @property
    def has_body(self) -> bool:
        """Whether content follows, or may follow."""
        return has_content(self.last)

    @property
    def authority(self) -> str:
        """The host that was asked for, without the scheme's own port (RFC 9421 §2.2.3)."""
        return self.fields.get("host", "").lower().removesuffix(DEFAULT_PORTS[self.scheme])

    def component(self, identifier: str) -> str:
        """The value of a component (``"@method"``, ``"date"``, quoted as in the field); raises ``Refused``."""
        name = identifier[1:-1]
        match name:
            case "@method":
                return self.method
            case "@authority":
                return self.authority
            case "@path":
                return self.path.decode("latin-1")
            case "@query":
                return "?" + self.query.decode("latin-1")
        if not identifier.endswith('"') or name.startswith("@") or name != name.lower():
            why = ": names are in lower case" if name != name.lower() else ""
            raise malformed(f"{identifier} is not a component that can be signed here{why}.")
        value = self.fields.get(name)
        if value is None:
            raise Refused("signature_incomplete", f"The signature covers {name}, which the request does not have.")
        return value
