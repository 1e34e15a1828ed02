"""A refused call as a problem: which limit, how much of it, when to come back; and a receipt of what was decided on."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from shared import clock
from shared.errors import Problem, QuotaExceeded, ReducedCapacity
from shared.limits.decision import Decision, Verdict
from shared.limits.policies import Operation

_PERIODS = {"second": "a second", "minute": "a minute", "hour": "an hour", "day": "a day", "month": "a month"}
_SUBJECTS = {"key": "this API key", "user": "this user", "route": "this operation", "class": "calls of this class"}
_LENGTHS = ((172_800, 86_400, "days"), (7_200, 3_600, "h"), (120, 60, "min"), (0, 1, "s"))


def refusal(decision: Decision, operation: Operation) -> Problem:
    """The problem that answers a call which is not allowed: 429, or 503 when it could not be decided."""
    violated = [each for each in decision.verdicts if not (each.allowed or each.policy.shadow)]
    wait = max([decision.retry_after, 1, *(_seconds(each) for each in violated)])
    receipt = {
        "decided_at": clock.now(),
        "operation": operation.name,
        "policies": [_entry(each, operation) for each in decision.verdicts],
    }
    if decision.unavailable or not violated:
        names = " and ".join(f"'{each.policy.name}'" for each in violated)
        reason = f"The limit {names} lets no call pass meanwhile." if names else "What they are is not known here yet."
        return ReducedCapacity(
            f"Whether this call is within its limits cannot be checked at the moment. {reason} Try again in {wait} s.",
            retry_after=wait,
            receipt=receipt,
        )
    more: dict[str, Any] = {"violated-policies": [each.policy.name for each in violated], "receipt": receipt}
    return QuotaExceeded(_detail(violated, operation, wait), retry_after=wait, **more)


def _detail(violated: Sequence[Verdict], operation: Operation, wait: int) -> str:
    first, *others = sorted(violated, key=_seconds, reverse=True)
    said = [_explained(first, operation)]
    if others:
        names = " and ".join(f"'{each.policy.name}'" for each in others)
        said.append(f"Used up, too: {names}.")
    said.append(f"Try again in {_length(wait)}; GET /v1/limits shows every limit.")
    return " ".join(said)


def _explained(verdict: Verdict, operation: Operation) -> str:
    policy, cost = verdict.policy, verdict.policy.cost_of(operation)
    owner = f"your plan {policy.plan}" if policy.plan else "your organisation"
    who = " and ".join(_SUBJECTS[each] for each in policy.per if each in _SUBJECTS) or "the organisation"
    said = f"The limit '{policy.name}' of {owner} allows {verdict.quota:,}"
    if policy.window is None:
        return f"{said} calls at the same time for {who}, and no more can begin now."
    unit = "units" if policy.weighted else "calls"
    said = f"{said} {unit} {_PERIODS[policy.window]} for {who}"
    if cost > verdict.quota:
        return f"{said}, and this call alone costs {cost:,}."
    if verdict.source == "fallback":
        return f"{said}; it is shared out while the database cannot be asked, and the share of this gateway is used up."
    return f"{said}; {verdict.remaining:,} are left and this call costs {cost:,}."


def _entry(verdict: Verdict, operation: Operation) -> dict[str, Any]:
    policy = verdict.policy
    return {
        "policy": policy.name,
        "policy_id": policy.id,
        "plan": policy.plan,
        "version": policy.version,
        "subject": verdict.subject,
        "quota": verdict.quota,
        "unit": policy.unit,
        "window": policy.window,
        "cost": policy.cost_of(operation),
        "remaining": verdict.remaining,
        "resets_in": round(verdict.resets_in, 3) if policy.window else None,
        "mode": policy.mode,
        "decided_by": verdict.source,
        "refused": not verdict.allowed,
        "shadow": policy.shadow,
    }


def _seconds(verdict: Verdict) -> int:
    """How long a limit stays used up; one of calls at the same time may be free at any moment."""
    return ceil(verdict.resets_in) if verdict.policy.window else 0


def _length(seconds: int) -> str:
    size, unit = next((size, unit) for least, size, unit in _LENGTHS if seconds >= least)
    return f"{-(-seconds // size)} {unit}"
