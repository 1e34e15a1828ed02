"""The parameters of a signature: when it was made, by which key, and once."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from math import ceil

from services.identity.signatures.domain.explanation import Elsewhere, Keys, Parameter
from services.identity.signatures.domain.request import legible, shortened
from shared.signing.fields import Bare, Signed, quoted
from shared.signing.v1 import MILLISECONDS, SKEW_SECONDS, TAG

NAMES = ("created", "expires", "nonce", "keyid", "alg", "tag")
_NONCE = re.compile(r"[A-Za-z0-9_\-+/=.]{16,64}")
ANEW = "Sign each request anew, just before it is sent"
_OWN = "Sign with a signing key of the very API key that you send"
BEFORE_CREATED = "before created, and must come after it"
"""Of ``expires``; what is said of it then."""


def parameters(signed: Signed, keys: Keys, at: float) -> list[Parameter]:
    """Those that are required, then the rest as it stands."""
    given = signed.parameters
    return [
        Parameter("created", _shown(given.get("created")), _created(given.get("created"), at)),
        Parameter("expires", _shown(given.get("expires")), _expires(given.get("expires"), given.get("created"), at)),
        Parameter("nonce", _shown(given.get("nonce")), _nonce(given.get("nonce"))),
        Parameter("keyid", _shown(given.get("keyid")), _key_id(given.get("keyid"), keys)),
        Parameter("alg", _shown(given.get("alg")), _algorithm(given, keys)),
        Parameter("tag", _shown(given.get("tag")), _tag(given.get("tag"))),
        *(Parameter(legible(name), _shown(value)) for name, value in given.items() if name not in NAMES),
    ]


def none_at_all() -> list[Parameter]:
    """Of a request without a signature."""
    return [Parameter(name, None, "It is missing.") for name in NAMES]


def in_milliseconds(value: object) -> bool:
    """Whether a time is in milliseconds where seconds are asked for."""
    return isinstance(value, int) and value >= MILLISECONDS


def suggested(given: Mapping[str, Bare], keys: Keys, at: float) -> str:
    """The parameters that are missing, written as they might be."""
    created = given.get("created")
    begin = created if isinstance(created, int) and not in_milliseconds(created) else int(at)
    key = keys.named(given.get("keyid")) or next(iter(keys.good), None)
    wanted = {
        "created": str(begin),
        "expires": str(begin + SKEW_SECONDS),
        "nonce": '"<16 to 64 characters, new for each request>"',
        "keyid": quoted(key.key_id if key else "<the id of a signing key>"),
        "alg": quoted(key.algorithm if key else "hmac-sha256"),
        "tag": quoted(TAG),
    }
    return "".join(f";{name}={value}" for name, value in wanted.items() if name not in given)


def _shown(value: Bare | None) -> str | int | None:
    if isinstance(value, bytes):
        return f":{b64encode(value).decode()}:"
    return legible(value) if isinstance(value, str) else value


def _time(name: str, value: Bare | None) -> str | None:
    if value is None:
        return f"It is missing; add {name}=, in unix seconds."
    if not isinstance(value, int):
        return "It is text; write the number without quotes."
    if in_milliseconds(value):
        return "It is in milliseconds; unix seconds are asked for."
    return None


def _created(value: Bare | None, at: float) -> str | None:
    problem = _time("created", value)
    if problem or not isinstance(value, int):
        return problem
    if abs(at - value) <= SKEW_SECONDS:
        return None
    if at > value:
        return f"It was {ceil(at - value)} s ago; {SKEW_SECONDS} s are allowed. {ANEW}; if you do, check your clock."
    ahead = f"It is {ceil(value - at)} s ahead of the gateway's clock; {SKEW_SECONDS} s are allowed."
    return f"{ahead} Say when you sign, in UTC; if you do, check your clock."


def _expires(value: Bare | None, created: Bare | None, at: float) -> str | None:
    problem = _time("expires", value)
    if problem or not isinstance(value, int):
        return problem
    begin = created if isinstance(created, int) and not in_milliseconds(created) else None
    if at >= value:
        if begin is not None and value <= begin:
            where = f"{begin - value} s {BEFORE_CREATED}" if value < begin else "created itself, and must come after it"
            return f"It is {where}, by {SKEW_SECONDS} s at most."
        return f"It was {ceil(at - value)} s ago: the signature has expired. {ANEW}."
    if begin is not None and value - begin > SKEW_SECONDS:
        return (
            f"It is {value - begin} s after created; {SKEW_SECONDS} s are allowed. With this created say "
            f"expires={begin + SKEW_SECONDS}, or sooner."
        )
    return None


def _nonce(value: Bare | None) -> str | None:
    if value is None:
        return 'It is missing; add nonce="…", new for each request.'
    if not isinstance(value, str):
        return 'It is not text; write nonce="…", in quotes.'
    if not _NONCE.fullmatch(value):
        return f"has {len(value)} characters; 16 to 64 of A–Z a–z 0–9 _-+/=. are asked for."
    return None


def _key_id(value: Bare | None, keys: Keys) -> str | None:
    if value is None:
        return 'It is missing; add keyid="…", the id of the signing key that you sign with.'
    if not isinstance(value, str):
        return 'It is not text; write keyid="…", in quotes.'
    if keys.good_one(value) is not None:
        return None
    if keys.ended is not None and keys.ended.key.key_id == value:
        other = "another one" if keys.ended.successor is None else f"its successor, {keys.ended.successor}"
        return f"This signing key {keys.ended.why}; sign with {other}."
    if value in keys.unreadable:
        return "This signing key's secret cannot be read any more; revoke it and make a new one."
    if keys.elsewhere is not None:
        return _of_another(keys.elsewhere, keys.api_key_id)
    if value == keys.api_key_id or value.startswith("gdn_"):
        return "This names the API key; keyid is the id of its signing key."
    if value.startswith("gdns_"):
        return "This is a secret! Revoke it. keyid is the id of the signing key."
    if keys.good_one(value.strip().lower()) is not None:
        return f"Write the id as it was given, {value.strip().lower()}."
    return "No signing key of this API key has this id."


def _of_another(key: Elsewhere, api_key_id: str) -> str:
    says = f"This is a signing key of another API key, {key.api_key_id}."
    if key.copy is not None:
        return f"{says} That given here, {api_key_id}, has a copy of it with the same secret: name {key.copy}."
    if key.live:
        return f"{says} That is a live key, whose signatures are not explained. {_OWN}."
    return f"{says} {_OWN}; if the request was sent with that other one, give it here as api_key_id."


def _algorithm(given: Mapping[str, Bare], keys: Keys) -> str | None:
    value, key = given.get("alg"), keys.named(given.get("keyid"))
    wanted = f"; this key signs with {key.algorithm}" if key else ""
    if value is None:
        return f'It is missing; add alg="…"{wanted}.'
    if not isinstance(value, str):
        return 'It is not text; write alg="…", in quotes.'
    if key is not None and value != key.algorithm:
        return f'It is "{shortened(legible(value))}"{wanted}.'
    return None


def _tag(value: Bare | None) -> str | None:
    if value == TAG:
        return None
    return f'It is missing; add tag="{TAG}".' if value is None else f'It must be tag="{TAG}".'
