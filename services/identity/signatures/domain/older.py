"""A signature of the older scheme (v0), explained: the hex HMAC-SHA256 of ``<milliseconds>:<content>``."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from services.identity.signatures.domain.content import content_lacking, cut, of_type, retyped
from services.identity.signatures.domain.explanation import Component, Digest, Explanation, Keys, Parameter
from services.identity.signatures.domain.key_mistakes import of_former, of_secret, unexplained
from services.identity.signatures.domain.parameters import ANEW
from services.identity.signatures.domain.reading import HEXADECIMAL, LENGTHS, bytes_of
from services.identity.signatures.domain.request import Sent, legible, shortened
from services.identity.signatures.domain.search import Check, Mistake, explaining, holds, secrets_of, sentence
from shared.signing import v0
from shared.signing.failures import Refused
from shared.signing.keys import SharedSecret

_HOLDS = "The signature holds: the gateway lets the request pass once."
_RIGHT = "The signature itself is right: your secret and the text that you sign are good."
_PERHAPS_NOT_GIVEN = "No content was given to this route: if the request had some, give it, too."
_NO_SHARED = (
    "The older scheme (v0) needs a shared secret, and this API key has public keys alone: make a signing key of "
    "hmac-sha256 with POST /v1/api-keys/{}/signing-keys and {{}}."
)
_DIGITS = re.compile(r"[0-9]{10,13}")
_AS_IS = "sign <X-Timestamp>:<content>"
_PREFIX = re.compile(r"(?:hmac-)?(?:sha-?256|v0|v1)[=:]", re.IGNORECASE)
_WANTED = "X-Signature is 64 hexadecimal digits and nothing else"
_LONGEST_BASE = 20_000
Layout = Callable[[bytes, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Draft:
    """What may have been signed, with what."""

    time: bytes
    content: bytes
    signature: bytes
    check: Check
    layout: Layout = lambda time, content: time + b":" + content

    def text(self) -> bytes:
        """The text that was signed."""
        return self.layout(self.time, self.content)

    def signed_by(self, check: Check) -> Draft:
        """The same, with another key."""
        return replace(self, check=check)


def explain(sent: Sent, keys: Keys, at: float) -> Explanation:
    """What the gateway would say at ``at`` (unix seconds) of a request that must be signed so, and why."""
    secrets = secrets_of(keys.good)
    code, detail = _verdict(sent, secrets, at)
    time = sent.fields.get("x-timestamp")
    timing = _time_problem(time, at)
    signature, hints, problem = _signature(sent.fields.get("x-signature"))
    if code is not None:
        told = [*hints]
        if secrets and signature is not None:
            told += _of_signature(sent, time or "", signature, keys)
        says = _NO_SHARED.format(keys.api_key_id) if keys.good and not secrets else detail
        hints = [_fault(code, says, time, timing, problem, told), *told]
    begin = time if time and time.isascii() and time.isdigit() else str(int(at * 1000))
    lacks = content_lacking(sent)
    base = legible(f"{begin}:".encode() + (sent.content if lacks is None else b"<the content>"))[:_LONGEST_BASE]
    covered = [
        Component("x-timestamp", _shown(time), True, True, timing),
        Component("content", cut(sent.content), True, True, lacks),
    ]
    given = [
        Parameter("x-timestamp", _shown(time), timing),
        Parameter("x-signature", _shown(sent.fields.get("x-signature")), problem),
    ]
    hints += of_type(sent)
    return Explanation(code is None, code, detail, "v0", base, covered, Digest(), given, list(dict.fromkeys(hints)))


def _fault(
    code: str, detail: str, time: str | None, timing: str | None, problem: str | None, told: Sequence[str]
) -> str:
    """The one fault that ``code`` names, in the order in which the gateway looks."""
    untimely = timing is not None and (code == "signature_time" or not _DIGITS.fullmatch(time or ""))
    if code in {"signature_time", "signature_malformed"} and (untimely or problem is not None):
        return f"X-Timestamp: {timing}" if untimely else f"{problem}"
    return told[0] if code == "signature_mismatch" and told else detail


def _shown(text: str | None) -> str | None:
    return None if text is None else shortened(legible(text))


def _verdict(sent: Sent, secrets: Sequence[SharedSecret], at: float) -> tuple[str | None, str]:
    message = sent.message()
    try:
        attempts = [v0.Verification(message, key, at) for key in secrets]
        if not attempts:
            raise Refused("signature_key", "This API key has no shared secret to sign with.")
        for attempt in attempts:
            attempt.update(sent.content)
            if attempt.holds():
                return None, _HOLDS
        attempts[0].check()
    except Refused as refused:
        return refused.code, refused.detail
    return None, _HOLDS


def _time_problem(time: str | None, at: float) -> str | None:
    if time is None:
        return "It is missing; send X-Timestamp, the time in milliseconds."
    if not time.isascii() or not time.isdigit():
        return "It is the time in milliseconds, in digits alone."
    if len(time) == 10:
        return "It is in seconds; milliseconds are asked for."
    if len(time) != 13:
        return "It is no time in milliseconds: that has 13 digits."
    seconds = at - int(time) / 1000
    if abs(seconds) <= v0.SKEW_SECONDS:
        return None
    where = f"was {ceil(seconds)} s ago" if seconds > 0 else f"is {ceil(-seconds)} s ahead of the gateway's clock"
    return f"It {where}; {v0.SKEW_SECONDS} s are allowed. {ANEW}; if you do, check your clock."


def _signature(field: str | None) -> tuple[bytes | None, list[str], str | None]:
    """Its bytes, hints, and what is wrong with it."""
    if field is None:
        return None, [], "It is missing; send X-Signature, in hexadecimal."
    if re.fullmatch(r"[0-9a-fA-F]{64}", field):
        return bytes.fromhex(field), [], None
    text = _PREFIX.sub("", field, count=1).strip(" :\"'")
    found, says = bytes_of(text)
    if found is None or len(found) not in LENGTHS:
        return None, [], f"{_WANTED}."
    if says != HEXADECIMAL:
        problem = f"{_WANTED}; this is {says or 'base64'}."
    elif text != field:
        problem = f"{_WANTED}; leave out what stands around them."
    else:
        problem = f"{_WANTED}; these are {len(text)}."
    return found, [problem], problem


def _of_signature(sent: Sent, time: str, signature: bytes, keys: Keys) -> list[str]:
    secrets = secrets_of(keys.good)
    draft = Draft(time.encode("latin-1"), sent.content, signature, _any_of(secrets))
    if holds(draft):
        return [_RIGHT]
    mistakes = [*_of_times(time), *_of_content(sent), *_of_layouts(sent)]
    mistakes += of_former([each for each in keys.former if isinstance(each.key, SharedSecret)], None)
    for key in secrets:
        mistakes += of_secret(sent, key)
    made = explaining(draft, mistakes, secrets[0])
    if made:
        return [sentence(made)]
    if lacks := content_lacking(sent):
        return [lacks]
    return [unexplained(secrets[0]), *([] if sent.content else [_PERHAPS_NOT_GIVEN])]


def _any_of(secrets: Sequence[SharedSecret]) -> Check:
    return lambda text, signature: any(key.verifies(signature, text) for key in secrets)


def _of_times(time: str) -> Iterator[Mistake[Draft]]:
    if not time.isascii() or not time.isdigit():
        return
    others = {"in milliseconds": f"{time}000", "in seconds": time[:-3]}
    for how, other in others.items():
        yield Mistake(
            "time", f"the time in the text is {how}", "sign the very digits of X-Timestamp, milliseconds",
            _timed(other.encode()), usual=True,
        )  # fmt: skip


def _timed(time: bytes) -> Callable[[Draft], Draft]:
    return lambda draft: replace(draft, time=time)


def _of_content(sent: Sent) -> Iterator[Mistake[Draft]]:
    for assumed, instead, content in retyped(sent.content):
        yield Mistake("content", assumed, instead, _with_content(content), usual="line end" in assumed)
    digest = hashlib.sha256(sent.content)
    for assumed, content in (
        ("the content's SHA-256 in hexadecimal is signed", digest.hexdigest().encode()),
        ("the content's SHA-256 in base64 is signed", b64encode(digest.digest())),
        ("the content's SHA-256 is signed", digest.digest()),
    ):
        yield Mistake("content", assumed, "sign the content itself", _with_content(content))


def _with_content(content: bytes) -> Callable[[Draft], Draft]:
    return lambda draft: replace(draft, content=content)


def _of_layouts(sent: Sent) -> Iterator[Mistake[Draft]]:
    method, path = sent.method.encode(), sent.path.encode("latin-1")
    target = path + b"?" + sent.query.encode("latin-1") if sent.query else path
    layouts: list[tuple[str, Layout]] = [
        ("time and content are joined without a colon", lambda time, content: time + content),
        ("time and content are joined by a point", lambda time, content: time + b"." + content),
        ("time and content are joined by a line end", lambda time, content: time + b"\n" + content),
        ("time and content are joined by a space", lambda time, content: time + b" " + content),
        ("the content stands before the time", lambda time, content: content + b":" + time),
        ("the content stands before the time, without a colon", lambda time, content: content + time),
        ("the content is signed alone", lambda _, content: content),
        ("the time is signed alone", lambda time, _: time),
        ("v0: stands before the time", lambda time, content: b"v0:" + time + b":" + content),
    ]
    for between in (b":", b"", b"\n"):
        layouts += [
            ("method and path are signed, too", _routed(between, method, path)),
            ("method, path and query are signed, too", _routed(between, method, target)),
        ]
    for assumed, layout in layouts:
        yield Mistake("layout", assumed, _AS_IS, _laid_out(layout), usual="joined" in assumed)


def _routed(between: bytes, method: bytes, path: bytes) -> Layout:
    return lambda time, content: between.join((time, method, path, content))


def _laid_out(layout: Layout) -> Callable[[Draft], Draft]:
    return lambda draft: replace(draft, layout=layout)
