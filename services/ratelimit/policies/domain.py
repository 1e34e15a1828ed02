"""Rules of policies: what fits together, what a change does to the counting, and whom a policy would shut out."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, get_args
from uuid import UUID

from shared.auth import Principal
from shared.errors import FieldError
from shared.limits.policies import Caller, Operation, Override, Policy, Window, matches

MOST_POLICIES = 200
"""Policies of an organisation, those of its plan not counted."""
MOST_STARS = 4
LONGEST_PATTERN = 200
EDITING_CALLS = 5
"""So many calls of each kind a window must leave to whoever edits; what else they call may count in it, too."""
MATCH_FIELDS = ("routes", "classes", "keys", "users")

SILENT = frozenset({"name", "description", "note"})
"""Fields of policies and overrides that decide nothing: whoever changes only these shuts nobody out."""
COUNTED_ANEW = frozenset({"unit", "window", "timezone", "per", "weighted"})
"""Fields that say what is counted and when: with another value what was counted so far means nothing."""

POLICY_ADVICE = (
    'Allow more, leave the route or yourself out of it, or try it with "shadow": true; "force": true saves it all the '
    "same, and then it may take an operator to delete it (guardian limits delete)."
)
"""What to do about a policy that would refuse the editor's own calls."""

PERIODS = {"second": "a second", "minute": "a minute", "hour": "an hour", "day": "a day", "month": "a month"}
"""How a window reads after a number of units."""
_ROUTE = re.compile(r"(?:\*|GET|POST|PUT|PATCH|DELETE) /[A-Za-z0-9_./{}*-]*")


def route_pattern(text: str) -> str:
    """A pattern of operations; raises ``ValueError`` for anything else."""
    if _ROUTE.fullmatch(text) is None:
        raise ValueError(
            "must be a method or *, a space, and a path, such as 'GET /v1/contacts/{contact_id}' or '* /v1/deals*'"
        )
    return pattern(text)


def pattern(text: str) -> str:
    """A text in which a few ``*`` stand for anything; raises ``ValueError``."""
    if text.count("*") > MOST_STARS:
        raise ValueError(f"must have at most {MOST_STARS} '*'")
    return text


def problems(values: Mapping[str, Any]) -> list[FieldError]:
    """What of a whole policy does not fit together."""
    found, concurrent = [], values["unit"] == "concurrent-requests"
    if concurrent and values["window"] is not None:
        found.append(_problem("/window", "calls at the same time have no window: leave it out, or send null"))
    if not concurrent and values["window"] is None:
        windows = ", ".join(get_args(Window))
        found.append(_problem("/window", f"say in which window requests are counted: {windows}"))
    if concurrent and values["mode"] != "exact":
        found.append(_problem("/mode", "calls at the same time are always counted exactly: leave it out"))
    return found


def _problem(field: str, message: str) -> FieldError:
    return FieldError(field=field, code="does_not_fit", message=message)


def counts_anew(changed: Iterable[str]) -> bool:
    """Whether a policy of which these fields changed begins to count from zero."""
    return not COUNTED_ANEW.isdisjoint(changed)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``{field: {before, after}}`` in JSON's types; a field that one side lacks is null there."""
    names = {**before, **after}
    return {
        _public(name): {"before": _plain(before.get(name)), "after": _plain(after.get(name))}
        for name in names
        if before.get(name) != after.get(name)
    }


def _public(name: str) -> str:
    return f"match.{name}" if name in MATCH_FIELDS else name


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return [_plain(each) for each in value] if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class Editor:
    """Who changes limits. ``operations`` change limits, too: afterwards the editor must still be able to call them."""

    principal: Principal
    operations: Sequence[Operation]
    default_plan: str

    @property
    def caller(self) -> Caller:
        """As limits see whoever is editing."""
        principal = self.principal
        by_key = principal.actor_type == "api_key"
        return Caller(
            principal.organization_id,
            key_id=principal.actor_id if by_key else None,
            user_id=principal.on_behalf_of if by_key else principal.actor_id,
        )


def policy_of(row: Mapping[str, Any], organization_id: UUID, overrides: Sequence[Override] = ()) -> Policy:
    """A stored policy as whoever enforces it sees it."""
    given = {each.name: row[each.name] for each in fields(Policy) if each.name in row}
    for name, value in given.items():
        if isinstance(value, list):
            given[name] = tuple(str(each) for each in value)
    return Policy(**{**given, "organization_id": organization_id, "overrides": tuple(overrides)})


@dataclass(frozen=True, slots=True)
class Exemption(Override):
    """An override with the moment of its end."""

    expires_at: datetime | None = None


def quotas(policy: Policy, exemptions: Sequence[Exemption], subject: str) -> list[int]:
    """The quotas a subject comes to have while exemptions expire, one after the other; the present one first."""
    fitting = [each for each in exemptions if matches(each.pattern, subject)]
    found: list[int] = []
    latest: datetime | None = None
    for each in sorted(fitting, key=lambda one: (-len(one.pattern), one.pattern)):
        if each.expires_at is None:
            return [*found, each.quota]
        if latest is None or each.expires_at > latest:
            found.append(each.quota)
            latest = each.expires_at
    return [*found, policy.quota]


@dataclass(frozen=True, slots=True)
class Call:
    """One of the editor's calls as a policy counts it. ``quotas`` are those of its subject, the present one first."""

    operation: Operation
    subject: str
    quotas: Sequence[int]
    cost: int


def calls(policy: Policy, exemptions: Sequence[Exemption], editor: Editor) -> list[Call]:
    """The editor's calls that a policy counts."""
    found = [(operation, policy.subject(editor.caller, operation)) for operation in editor.operations]
    return [
        Call(operation, subject, quotas(policy, exemptions, subject), policy.cost_of(operation))
        for operation, subject in found
        if subject is not None
    ]


def refusal(policy: Policy, counted: Sequence[Call], used: Mapping[str, int]) -> str | None:
    """Why a policy leaves too little room for these calls, in a sentence.

    ``used`` is what each subject used of the window.
    """
    times = EDITING_CALLS if policy.window else 1
    for call in counted:
        spent, quota = used.get(call.subject, 0), min(call.quotas)
        if quota >= spent + times * call.cost:
            continue
        limit = f"{quota} {policy.unit}" + (f" {PERIODS[policy.window]}" if policy.window else "")
        expires = " once an override expires" if quota < call.quotas[0] else ""
        so_far = f", {spent} were used in this {policy.window} already" if spent else ""
        room = f", and there must be room for {times}" if times > 1 else ""
        return (
            f"The policy '{policy.name}' would soon refuse your own call {call.operation.name}: {limit} for "
            f"'{call.subject}'{expires}{so_far}; one call takes {call.cost}{room}."
        )
    return None
