"""By which scheme a request is to be signed, and what the API key itself has to say to it."""

from __future__ import annotations

from typing import Literal

from services.identity.signatures.domain import older, rfc9421
from services.identity.signatures.domain.explanation import Explanation, Keys
from services.identity.signatures.domain.request import Sent

Policy = Literal["off", "v0", "both", "v1"]


def explain(sent: Sent, policy: Policy, keys: Keys, at: float, ended: tuple[str, str] | None = None) -> Explanation:
    """Why the gateway would refuse a request at ``at`` (unix seconds), or that it would not.

    While ``policy`` is off, the request is looked at as if it had to be signed in the way that it is. ``ended``: code and
    detail of the gateway for an API key that is worth nothing at that time.
    """
    older_fields = bool({"x-signature", "x-timestamp"} & sent.fields.keys())
    newer_fields = bool({"signature", "signature-input"} & sent.fields.keys())
    by_older = policy == "v0" or (older_fields and (policy == "both" or (policy == "off" and not newer_fields)))
    found = older.explain(sent, keys, at) if by_older else rfc9421.explain(sent, keys, at)
    if ended is not None:
        found.valid, (found.code, found.detail) = False, ended
    if by_older and newer_fields and not older_fields:
        found.hints.append("The request is signed as RFC 9421 says, and this API key's signature_policy asks for v0.")
    if not by_older and older_fields and not newer_fields:
        found.hints.append(
            "The request is signed by the older scheme, and this API key's signature_policy asks for v1."
        )
    if policy == "off":
        found.hints.append(
            "This API key's signature_policy is off: the gateway asks for no signature, and checks none."
        )
    for key_id in keys.unreadable:
        found.hints.append(f"The secret of the signing key {key_id} cannot be read any more; make a new one.")
    found.hints += _of_length(sent)
    return found


def _of_length(sent: Sent) -> list[str]:
    length = sent.fields.get("content-length", str(len(sent.content)))
    if length == str(len(sent.content)):
        return []
    said, given = length[:20], len(sent.content)
    return [
        f"Content-Length is {said}, and the content given here has {given} bytes; give the very bytes that were sent."
    ]
