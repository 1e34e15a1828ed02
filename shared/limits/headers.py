"""The fields ``RateLimit`` and ``RateLimit-Policy`` (draft-ietf-httpapi-ratelimit-headers), as RFC 9651 lists.

One item for each policy that counted the call: ``"minute";r=50;t=30`` and ``"minute";q=6000;w=60``. A policy that
counts by anything but the organisation has ``pk``, which differs between subjects and tells nothing about them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from math import ceil
from typing import ClassVar

from shared.limits.decision import Verdict
from shared.limits.policies import SECONDS, Window

Pair = tuple[bytes, bytes]

_KEY_BYTES = 6
_MEMORY = 10_000
MOST_ITEMS = 20
"""Policies that are written, those of the shortest windows first; whichever refused is always among them."""
_WHOLE = "organization"
"""The subject of a policy that does not tell callers apart."""

_Key = tuple[str, int, str, Window | None]
"""All of a policy that is written, so that no change of it can leave an old text behind."""


class _Line:
    """What does not change from call to call: the policies up to one, and the text around the state of that one."""

    __slots__ = ("before", "behind", "following", "policies", "text")
    made: ClassVar[int] = 0

    def __init__(self, text: str, before: str, behind: str) -> None:
        self.text = text
        self.policies: Pair = (b"ratelimit-policy", text.encode())
        self.before = before
        self.behind = behind
        self.following: dict[_Key, _Line] = {}

    def grow(self, key: _Key) -> _Line:
        """The line with one more policy."""
        name, quota, subject, window = key
        partition = "" if subject == _WHOLE else f";pk={_partition_key(subject)}"
        kind = ';qu="concurrent-requests"' if window is None else f";w={SECONDS[window]}"
        separator = ", " if self.text else ""
        if _Line.made >= _MEMORY:  # subjects are as many as there are keys and users: start over
            _START.following.clear()
            _Line.made = 0
        _Line.made += 1
        text = f'{self.text}{separator}"{name}";q={quota}{kind}{partition}'
        line = self.following[key] = _Line(text, f'{separator}"{name}";r=', partition)
        return line


_START = _Line("", "", "")


def limit_headers(verdicts: Sequence[Verdict]) -> list[Pair]:
    """Both fields; none when no policy that has a say counted the call."""
    line, states, shown = _START, "", 0
    for policy, subject, quota, remaining, resets_in, allowed, _ in verdicts:
        if policy.shadow or (shown >= MOST_ITEMS and allowed):
            continue
        shown += 1
        key = (policy.name, quota, subject, policy.window)
        line = line.following.get(key) or line.grow(key)
        until = f";t={ceil(resets_in)}" if key[3] else ""
        states += f"{line.before}{remaining}{until}{line.behind}"
    if line is _START:
        return []
    return [line.policies, (b"ratelimit", states.encode())]


def limit_fields(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Both fields as a problem's headers."""
    names = {b"ratelimit-policy": "RateLimit-Policy", b"ratelimit": "RateLimit"}
    return {names[name]: value.decode() for name, value in limit_headers(verdicts)}


def _partition_key(subject: str) -> str:
    digest = hashlib.sha256(subject.encode()).digest()[:_KEY_BYTES]
    return f":{base64.b64encode(digest).decode()}:"
