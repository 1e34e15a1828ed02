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


def refusal(decision: Decision, operation: Operation, *, rest: bool = False) -> Problem:
    """The problem that answers a call which is not allowed: 429, or 503 when it could not be decided.

    With ``rest`` the operation's cost is only what the call costs beyond what was taken before.
    """
    violated = [each for each in decision.verdicts if not (each.allowed or each.policy.shadow)]
    wait = max(decision.retry_after, 1)
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
    call = "the rest of this call" if rest else "this call"
    return QuotaExceeded(_detail(violated, operation, wait, call), retry_after=wait, **more)


def _detail(violated: Sequence[Verdict], operation: Operation, wait: int, call: str) -> str:
    hopeless = [each for each in violated if each.policy.cost_of(operation) > each.quota]
    first, *others = sorted(hopeless or violated, key=_seconds, reverse=True)
    said = [_explained(first, operation, wait, call)]
    if others:
        names = " and ".join(f"'{each.policy.name}'" for each in others)
        said.append(f"Used up, too: {names}." if not hopeless else f"Too small, too: {names}.")
    if hopeless:
        smaller = "make the call smaller, or have" if first.quota else "have"
        said.append(f"Waiting does not help: {smaller} the limit raised; GET /v1/limits shows every limit.")
    else:
        said.append(f"Try again in {length(wait)}; GET /v1/limits shows every limit.")
    return " ".join(said)


def _explained(verdict: Verdict, operation: Operation, wait: int, call: str) -> str:
    policy, cost = verdict.policy, verdict.policy.cost_of(operation)
    owner = f"your plan {policy.plan}" if policy.plan else "your organisation"
    who = " and ".join(_SUBJECTS[each] for each in policy.per if each in _SUBJECTS) or "the organisation"
    said = f"The limit '{policy.name}' of {owner} allows {f'{verdict.quota:,}' if verdict.quota else 'no'}"
    if policy.window is None:
        end = ", and no more can begin now" if verdict.quota else ""
        return f"{said} calls at the same time for {who}{end}."
    said = f"{said} {'units' if policy.weighted else 'calls'} {_PERIODS[policy.window]} for {who}"
    if not verdict.quota:
        return f"{said}."
    if cost > verdict.quota:
        return f"{said}, and {call} alone costs {cost:,}."
    if verdict.source == "fallback":
        return f"{said}; it is shared out while the database cannot be asked, and the share of this gateway is used up."
    if wait < _seconds(verdict):
        return f"{said}; what is left of it is with other processes just now, and they are asked to give it back."
    return f"{said}; {verdict.remaining:,} are left and {call} costs {cost:,}."


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


def length(seconds: int) -> str:
    """So long, as people say it."""
    size, unit = next((size, unit) for least, size, unit in _LENGTHS if seconds >= least)
    return f"{-(-seconds // size)} {unit}"
