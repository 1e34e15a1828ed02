"""What is told about a signed request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from shared.signing.keys import Verifier

SchemeName = Literal["v1", "v0"]


@dataclass(slots=True)
class Component:
    """One thing that a signature covers or must cover. ``value``: what the request has; None: it has no such thing."""

    name: str
    value: str | None
    covered: bool
    required: bool
    problem: str | None = None


@dataclass(slots=True)
class Parameter:
    """One parameter of the signature; ``value`` None: it is missing."""

    name: str
    value: str | int | None
    problem: str | None = None


@dataclass(slots=True)
class Digest:
    """``Content-Digest``. ``matches`` None: there is neither content nor a digest, or the scheme has none."""

    expected: str | None = None
    found: str | None = None
    matches: bool | None = None
    problem: str | None = None


@dataclass(slots=True)
class Explanation:
    """``code`` is the gateway's, None when it lets the request pass; ``signature_base`` what must be signed."""

    valid: bool
    code: str | None
    detail: str
    scheme: SchemeName
    signature_base: str
    components: list[Component]
    content_digest: Digest
    parameters: list[Parameter]
    hints: list[str]


@dataclass(frozen=True, slots=True)
class Ended:
    """A signing key that could not be used any more. ``why``: what is said of it, "was revoked 60 s before the request".
    ``successor``: the id of the key that was made of it by a rotation, if that one can be used.
    """

    key: Verifier
    why: str
    successor: str | None = None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A signing key of another API key of the same organisation. ``key`` is None where its signatures are not explained:
    that of a live API key, or one that cannot be read. ``copy``: the id of the copy that this API key has of it.
    """

    key_id: str
    api_key_id: str
    live: bool = False
    key: Verifier | None = None
    copy: str | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    """The signing keys of an API key. ``good``: those it could be used with; ``ended``: the one that the signature names,
    where it could not; ``former``: all that could not, newest first; ``elsewhere``: the named one, where it is another API
    key's; ``unreadable``: ids of good ones whose secret cannot be opened any more.
    """

    api_key_id: str
    good: Sequence[Verifier]
    ended: Ended | None = None
    elsewhere: Elsewhere | None = None
    unreadable: Sequence[str] = field(default=())
    former: Sequence[Ended] = field(default=())

    def good_one(self, key_id: str) -> Verifier | None:
        """The good key with this id."""
        return next((key for key in self.good if key.key_id == key_id), None)

    def named(self, key_id: object) -> Verifier | None:
        """The key with this id: good, ended, or another API key's that may be looked at."""
        found = self.good_one(key_id) if isinstance(key_id, str) else None
        if found is None and self.ended is not None and self.ended.key.key_id == key_id:
            return self.ended.key
        if found is None and self.elsewhere is not None and self.elsewhere.key_id == key_id:
            return self.elsewhere.key
        return found
