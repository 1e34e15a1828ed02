"""Signed requests as a developer makes them by hand: right, or wrong in one place. Nothing of ours signs here."""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

NOW = 1_768_478_400
"""2026-01-15T12:00:00Z, where the frozen clock stands."""
NONCE = "bmV2ZXIgdXNlZCBiZWZvcmU="
SECRET = "gdns_" + "Ab3" * 14 + "Z"
KEY_ID = "0198c5a0-0000-7000-8000-000000000031"
API_KEY_ID = "0198c5a0-0000-7000-8000-000000000030"
CONTENT = b'{"first_name":"Ada","notes":"caf\xc3\xa9"}'

Join = Callable[[list[tuple[str, str]], str], str]


def joined(lines: list[tuple[str, str]], params: str) -> str:
    """The base as RFC 9421 has it."""
    return "\n".join([f'"{name}": {value}' for name, value in lines] + [f'"@signature-params": {params}'])


def digest_of(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def by_hmac(secret: str | bytes) -> Callable[[bytes], bytes]:
    """A signature with this key."""
    key = secret.encode() if isinstance(secret, str) else secret
    return lambda text: hmac.new(key, text, hashlib.sha256).digest()


@dataclass(frozen=True)
class Handmade:
    """A request, what is listed of it, and what is really signed: ``signed`` has other values by name (None: no line)."""

    method: str = "POST"
    url: str = "https://api.example.com/v1/contacts/caf%C3%A9?limit=5&sort=a%20b"
    content: bytes = CONTENT
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json; charset=utf-8"})
    listed: tuple[str, ...] | None = None
    signed: Mapping[str, str | None] = field(default_factory=dict)
    parameters: Mapping[str, str | None] = field(default_factory=dict)
    params_signed: Callable[[str], str] = lambda params: params
    join: Join = joined
    sign: Callable[[bytes], bytes] = field(default_factory=lambda: by_hmac(SECRET))
    encode: Callable[[bytes], str] = lambda signature: f":{base64.b64encode(signature).decode()}:"
    sent: Callable[[str], str] = lambda field: field

    def but(self, **fields: Any) -> Self:
        """The same, but for this."""
        return replace(self, **fields)

    def body(self, **more: Any) -> dict[str, Any]:
        """The question about it."""
        return {
            "api_key_id": API_KEY_ID, "method": self.method, "url": self.url, "headers": self.fields(),
            "content": self.content.decode() if self.content else None, "at": NOW, **more,
        }  # fmt: skip

    def fields(self) -> dict[str, str]:
        """All header fields that are sent."""
        sent = dict(self.headers)
        if self.content:
            sent.setdefault("Content-Digest", digest_of(self.content))
        values = self._values(sent)
        listed = list(values) if self.listed is None else list(self.listed)
        params = "(" + " ".join(f'"{name}"' for name in listed) + ")" + self._parameters()
        names = list(dict.fromkeys([*listed, *self.signed])) if self.signed else listed
        lines = [(name, self.signed.get(name, values.get(name, ""))) for name in names]
        text = self.join([(name, value) for name, value in lines if value is not None], self.params_signed(params))
        signature = self.sign(text.encode("latin-1"))
        return sent | {"Signature-Input": self.sent(f"gdn={params}"), "Signature": f"gdn={self.encode(signature)}"}

    def _values(self, sent: Mapping[str, str]) -> dict[str, str]:
        _, _, rest = self.url.partition("://")
        host, slash, target = rest.partition("/")
        path, _, query = (slash + target).partition("?")
        values = {"@method": self.method, "@authority": host, "@path": path, "@query": f"?{query}"}
        for name in ("Content-Digest", "Content-Type", "Idempotency-Key"):
            if name in sent:
                values[name.lower()] = sent[name]
        return values

    def _parameters(self) -> str:
        given: dict[str, str | None] = {
            "created": str(NOW), "expires": str(NOW + 60), "nonce": f'"{NONCE}"', "keyid": f'"{KEY_ID}"',
            "alg": '"hmac-sha256"', "tag": '"guardian-v1"', **self.parameters,
        }  # fmt: skip
        return "".join(f";{name}={value}" for name, value in given.items() if value is not None)
