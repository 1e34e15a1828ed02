"""What a limit is, which calls it is for, and what it counts them by. Pure rules, without I/O.

The wire names follow the IETF draft for RateLimit headers: a *quota* ``q`` of *units* in a *window* ``w``, counted
per *partition*, which is called the subject here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple
from uuid import UUID

Unit = Literal["requests", "concurrent-requests"]
Window = Literal["second", "minute", "hour", "day", "month"]
Mode = Literal["exact", "fast", "strict"]
"""``exact``: leases; never more than the quota. ``fast``: leases on credit; never waits, and may pass the quota by
a tenth. ``strict``: the database decides every call."""
OnFailure = Literal["open", "closed", "share"]
"""What happens to calls while the database cannot be asked: all pass, none does, or this process's last known share."""
Part = Literal["organization", "key", "user", "route", "class"]
RouteClass = Literal["read", "write", "search", "bulk", "admin", "anonymous"]

SECONDS: dict[str, int] = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400, "month": 30 * 86_400}
"""How long a window is; a month counts as thirty days where only a length will do (``w`` in headers)."""


class Operation(NamedTuple):
    """A route as its contract describes it: ``path`` has ``{name}`` for what varies."""

    method: str
    path: str
    cost: int = 1
    route_class: RouteClass = "read"

    @property
    def name(self) -> str:
        """As it stands in policies and usage: ``GET /v1/contacts/{contact_id}``."""
        return f"{self.method} {self.path}"


class Caller(NamedTuple):
    """Whose call it is. ``key_id`` is None for a session, ``user_id`` is whoever made the key where there is one."""

    organization_id: UUID
    key_id: str | None = None
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class Override:
    """Another quota for the subjects that ``pattern`` matches (``*`` is anything)."""

    pattern: str
    quota: int


@dataclass(frozen=True, slots=True)
class Policy:
    """One limit. Empty ``routes``, ``classes``, ``keys`` or ``users`` mean all of them."""

    id: UUID
    organization_id: UUID
    name: str
    quota: int
    unit: Unit = "requests"
    window: Window | None = "minute"
    timezone: str = "UTC"
    per: tuple[Part, ...] = ("organization",)
    routes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    weighted: bool = True
    mode: Mode = "exact"
    on_failure: OnFailure = "share"
    shadow: bool = False
    epoch: int = 1
    version: int = 1
    plan: str | None = None
    overrides: tuple[Override, ...] = ()

    def subject(self, caller: Caller, operation: Operation) -> str | None:
        """What the call is counted under, such as ``key:0199…|route:GET /v1/contacts``; None: not for this call."""
        if not self._is_for(caller, operation):
            return None
        values = {
            "organization": None,
            "key": caller.key_id,
            "user": caller.user_id,
            "route": operation.name,
            "class": operation.route_class,
        }
        parts = [part for part in self.per if part != "organization"]
        if any(values[part] is None for part in parts):
            return None
        return "|".join(f"{part}:{values[part]}" for part in parts) or "organization"

    def _is_for(self, caller: Caller, operation: Operation) -> bool:
        return (
            (not self.keys or caller.key_id in self.keys)
            and (not self.users or caller.user_id in self.users)
            and (not self.classes or operation.route_class in self.classes)
            and (not self.routes or matches_any(self.routes, operation.name))
        )

    def quota_of(self, subject: str) -> int:
        """The quota of one subject: that of the longest pattern that matches it, else the policy's own."""
        found = [each for each in self.overrides if matches(each.pattern, subject)]
        return max(found, key=lambda each: len(each.pattern)).quota if found else self.quota

    def cost_of(self, operation: Operation) -> int:
        """How many units one call takes."""
        return operation.cost if self.weighted and self.unit == "requests" else 1

    @property
    def seconds(self) -> int:
        """The window's length, 0 for a limit of concurrent calls."""
        return SECONDS[self.window] if self.window else 0


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text fits a pattern in which ``*`` is anything.

    Each part is sought behind the one before, first come first served: linear where a regular expression backtracks,
    and nothing is to be compiled, however many patterns there are.
    """
    first, star, rest = pattern.partition("*")
    if not star:
        return text == pattern
    *middle, last = rest.split("*")
    end = len(text) - len(last)
    place = len(first)
    if not text.startswith(first) or not text.endswith(last) or place > end:
        return False
    for part in middle:
        place = text.find(part, place, end) + len(part)
        if place < len(part):
            return False
    return True


def matches_any(patterns: Sequence[str], text: str) -> bool:
    """Whether one of the patterns fits."""
    return any(matches(pattern, text) for pattern in patterns)
