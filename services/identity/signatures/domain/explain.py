"""By which scheme a request is to be signed, and what the API key itself has to say to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from services.identity.signatures.domain import older, rfc9421
from services.identity.signatures.domain.content import content_lacking
from services.identity.signatures.domain.explanation import Explanation, Keys
from services.identity.signatures.domain.request import Sent

Policy = Literal["off", "v0", "both", "v1"]

_FIELDS = {"v1": "Signature-Input and Signature", "v0": "X-Timestamp and X-Signature"}
_NAMES = {"v1": "by RFC 9421 (v1)", "v0": "by the older scheme (v0)"}
_UNSIGNED = {
    "v1": "The request is not signed. Sign signature_base with a signing key, and send Signature-Input: "
    'gdn=(…);created=… (what stands in the base behind "@signature-params": ) and Signature: '
    "gdn=:<the base64 of the signature>:.",
    "v0": "The request is not signed. Sign signature_base with HMAC-SHA256 and a signing key's secret, and send "
    "X-Timestamp (the digits before the colon) and X-Signature, its 64 hexadecimal digits.",
}
_OFF = (
    "This API key need not sign: its signature_policy is off, and the gateway verifies nothing. To have signatures "
    'verified, PATCH /v1/api-keys/{} with {{"signature_policy": "{}"}}.'
)
_OFF_IN_SHORT = "This API key need not sign."
_NO_KEY = "This API key has no signing key that works: make one with POST /v1/api-keys/{}/signing-keys and {{}}."


def explain(sent: Sent, policy: Policy, keys: Keys, at: float, ended: tuple[str, str] | None = None) -> Explanation:
    """Why the gateway would refuse a request at ``at`` (unix seconds), or that it would not.

    While ``policy`` is off, a signature is looked at as if it had to be there. ``ended``: code and detail of the
    gateway for an API key that is worth nothing at that time.
    """
    older_fields = bool({"x-signature", "x-timestamp"} & sent.fields.keys())
    newer_fields = bool({"signature", "signature-input"} & sent.fields.keys())
    by_older = policy == "v0" or (older_fields and (policy == "both" or (policy == "off" and not newer_fields)))
    upper = replace(sent, method=sent.method.upper())
    found = older.explain(upper, keys, at) if by_older else rfc9421.explain(upper, keys, at)
    signed, unseen = (older_fields, newer_fields) if by_older else (newer_fields, older_fields)
    _say_scheme(found, policy, keys.api_key_id, signed=signed, unseen=unseen)
    if policy == "off":
        _say_off(found, _OFF.format(keys.api_key_id, found.scheme), signed=signed)
    if not keys.good:
        found.hints.insert(0, _NO_KEY.format(keys.api_key_id))
    found.hints += [
        f"The secret of the signing key {key_id} cannot be read any more; make a new one." for key_id in keys.unreadable
    ]
    found.hints += [hint for hint in _of_length(sent) if hint not in found.hints]
    if ended is not None:
        _refuse(found, *ended, ended[1])
    if upper.method != sent.method:
        _say_method(found, sent.method)
    return found


def _refuse(found: Explanation, code: str, detail: str, hint: str) -> None:
    """What the gateway says before it looks at a signature."""
    found.valid, found.code, found.detail = False, code, detail
    found.hints.insert(0, hint)


def _say_scheme(found: Explanation, policy: Policy, api_key_id: str, *, signed: bool, unseen: bool) -> None:
    """Which scheme the API key asks for, where the request is signed by another, by both or by none."""
    scheme, other = (found.scheme, "v0" if found.scheme == "v1" else "v1")
    if signed and unseen:
        asked = "one scheme is looked at" if policy in {"both", "off"} else f"its signature_policy asks for {scheme}"
        found.hints.append(f"{_FIELDS[other]} are not looked at: {asked}, and the request has {_FIELDS[scheme]}, too.")
    if signed:
        return
    says = _UNSIGNED[scheme]
    if unseen:
        says = (
            f"The request is signed {_NAMES[other]}, and this API key's signature_policy asks for {scheme}: "
            f"{_FIELDS[other]} are not looked at. Sign it {_NAMES[scheme]}, with {_FIELDS[scheme]}; or PATCH "
            f'/v1/api-keys/{api_key_id} with {{"signature_policy": "both"}}, which takes either (v0 covers the time and '
            "the content alone)."
        )
    elif policy == "both":
        says += f" This API key's signature_policy is both: a signature {_NAMES[other]}, {_FIELDS[other]}, is as right."
    elif policy != "off":
        says += f" This API key's signature_policy asks for {scheme}."
    if found.code == "signature_missing":
        found.hints = [says, *(hint for hint in found.hints if hint != found.detail)]
    else:
        found.hints.append(says)


def _say_off(found: Explanation, says: str, *, signed: bool) -> None:
    found.hints.insert(0, says)
    if signed:
        found.detail = f"{_OFF_IN_SHORT} If it had to: {found.detail}"
    else:
        found.valid, found.code, found.detail = True, None, _OFF_IN_SHORT


def _say_method(found: Explanation, method: str) -> None:
    """The gateway takes no method in lower case; what was signed is explained as if the right one was sent."""
    upper = method.upper()
    says = (
        f"The method given is {method}, and methods are case-sensitive: sent like that the gateway answers 400 "
        f"and looks at no signature. Send {upper}, and sign {upper}; if your client sends {upper} already, "
        "give that here."
    )
    if found.valid:
        found.hints.insert(0, f"With {upper} for its method the request would pass.")
    _refuse(found, "bad_request", f"The gateway answers 400: {method} is no method, {upper} is.", says)
    for component in found.components:
        if component.name == "@method":
            component.value = method
            component.problem = f"{component.problem or ''} Methods are case-sensitive; send and sign {upper}.".strip()


def _of_length(sent: Sent) -> list[str]:
    if lacks := content_lacking(sent):
        return [lacks]
    length = sent.fields.get("content-length", str(len(sent.content)))
    if length == str(len(sent.content)):
        return []
    said, given = length[:20], len(sent.content)
    return [
        f"Content-Length is {said}, and the content given here has {given} bytes; give the very bytes that were sent."
    ]
