"""What a refused call is answered with."""

from datetime import UTC, datetime
from math import ceil
from typing import Any
from uuid import UUID

import orjson
import pytest

from shared.clock import FixedClock
from shared.errors import Problem, problem_body
from shared.http.rates import LimitProblem
from shared.limits.decision import Decision, Source, Verdict
from shared.limits.headers import limit_headers
from shared.limits.policies import Operation, Policy
from shared.limits.problems import refusal

ORGANIZATION = UUID(int=1)
LIST = Operation("GET", "/v1/contacts", 1, "search")
BULK = Operation("POST", "/v1/contacts/bulk", 10, "bulk")


def policy(name: str = "minute", quota: int = 6_000, **fields: Any) -> Policy:
    return Policy(UUID(int=7), ORGANIZATION, name, quota, **fields)


def refused(of: Policy, subject: str = "organization", resets: float = 33.2, source: Source = "lease") -> Verdict:
    return Verdict(of, subject, of.quota, 0, resets, allowed=False, source=source)


def told(*verdicts: Verdict) -> Decision:
    return Decision(False, verdicts, max([1, *(ceil(each.resets_in) for each in verdicts)]))


def body_of(problem: Problem) -> Any:
    return orjson.loads(problem_body(problem, instance="/v1/contacts", request_id="r-12345678"))


def test_a_quota_that_is_used_up(frozen_clock: FixedClock) -> None:
    fine = Verdict(policy("burst", 200, window="second", plan="pro"), "organization", 200, 30, 0.4, True, "lease")
    watched = refused(policy("watched", shadow=True))
    decision = Decision(False, (fine, refused(policy(plan="pro", version=3)), watched), 34)
    problem = refusal(decision, LIST)
    assert (problem.status, problem.headers) == (429, {"Retry-After": "34"})
    body = body_of(problem)
    assert body["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert body["code"] == "quota_exceeded"
    assert body["violated-policies"] == ["minute"]
    assert body["detail"] == (
        "The limit 'minute' of your plan pro allows 6,000 units a minute for the organisation; 0 are left and this "
        "call costs 1. Try again in 34 s; GET /v1/limits shows every limit."
    )
    receipt = body["receipt"]
    assert datetime.fromisoformat(receipt["decided_at"]) == datetime(2026, 1, 15, 12, tzinfo=UTC)
    assert receipt["operation"] == "GET /v1/contacts"
    shown = [(each["policy"], each["refused"], each["shadow"]) for each in receipt["policies"]]
    assert shown == [("burst", False, False), ("minute", True, False), ("watched", True, True)]
    assert receipt["policies"][1] == {
        "policy": "minute",
        "policy_id": str(UUID(int=7)),
        "plan": "pro",
        "version": 3,
        "subject": "organization",
        "quota": 6000,
        "unit": "requests",
        "window": "minute",
        "cost": 1,
        "remaining": 0,
        "resets_in": 33.2,
        "mode": "exact",
        "decided_by": "lease",
        "refused": True,
        "shadow": False,
    }
    assert str(ORGANIZATION) not in str(body)


@pytest.mark.parametrize(
    ("verdict", "operation", "said"),
    [
        (
            refused(policy("own", 5, per=("key", "route"), weighted=False, window="hour"), "key:a|route:b"),
            LIST,
            (
                "The limit 'own' of your organisation allows 5 calls an hour for this API key and this operation; "
                "0 are left and this call costs 1."
            ),
        ),
        (
            refused(policy("at-once", 3, unit="concurrent-requests", window=None), resets=0.5),
            LIST,
            (
                "The limit 'at-once' of your organisation allows 3 calls at the same time for the organisation, "
                "and no more can begin now."
            ),
        ),
        (
            refused(policy("small", 5), source="fallback"),
            LIST,
            (
                "The limit 'small' of your organisation allows 5 units a minute for the organisation; it is shared out "
                "while the database cannot be asked, and the share of this gateway is used up."
            ),
        ),
    ],
)
def test_what_people_are_told(verdict: Verdict, operation: Operation, said: str) -> None:
    problem = refusal(told(verdict), operation)
    assert problem.detail is not None
    assert problem.detail.startswith(f"{said} Try again in ")


def test_units_that_others_hold_come_back_soon() -> None:
    problem = refusal(Decision(False, (refused(policy("own", 5, window="hour"), resets=3000),), 1), LIST)
    assert problem.headers["Retry-After"] == "1"
    assert problem.detail == (
        "The limit 'own' of your organisation allows 5 units an hour for the organisation; what is left of it is with "
        "other processes just now, and they are asked to give it back. Try again in 1 s; GET /v1/limits shows every "
        "limit."
    )


@pytest.mark.parametrize(
    ("quota", "rest", "said"),
    [
        (
            5,
            False,
            (
                "allows 5 units a minute for the organisation, and this call alone costs 10. Waiting does not help: "
                "make the call smaller, or have the limit raised; GET /v1/limits shows every limit."
            ),
        ),
        (
            5,
            True,
            (
                "allows 5 units a minute for the organisation, and the rest of this call alone costs 10. Waiting does not "
                "help: make the call smaller, or have the limit raised; GET /v1/limits shows every limit."
            ),
        ),
        (
            0,
            False,
            (
                "allows no units a minute for the organisation. Waiting does not help: have the limit raised; "
                "GET /v1/limits shows every limit."
            ),
        ),
    ],
)
def test_what_can_never_pass_is_not_to_be_tried_again(quota: int, rest: bool, said: str) -> None:
    problem = refusal(told(refused(policy("small", quota))), BULK, rest=rest)
    assert problem.detail == f"The limit 'small' of your organisation {said}"


def test_the_longest_wait_is_explained_and_counts() -> None:
    month = refused(policy("month", 100, window="month"), resets=1_000_000.5)
    problem = refusal(told(refused(policy()), month), LIST)
    assert problem.headers["Retry-After"] == "1000001"
    assert problem.detail is not None
    assert problem.detail.startswith("The limit 'month'")
    assert "Used up, too: 'minute'. Try again in 12 days;" in problem.detail


@pytest.mark.parametrize(
    ("seconds", "said"), [(1, "1 s"), (119, "119 s"), (121, "3 min"), (7_201, "3 h"), (172_801, "3 days")]
)
def test_a_wait_is_said_in_words(seconds: int, said: str) -> None:
    problem = refusal(told(refused(policy(window="month"), resets=seconds)), LIST)
    assert problem.detail is not None
    assert f"Try again in {said};" in problem.detail


def test_nobody_is_told_to_come_back_too_early() -> None:
    for resets in (0.0, 0.001, 0.999, 1.0, 33.2):
        verdict = refused(policy(), resets=resets)
        (_, state) = limit_headers([verdict])
        shown = int(state[1].rpartition(b"t=")[2])
        assert int(refusal(told(verdict), LIST).headers["Retry-After"]) >= max(shown, 1)


@pytest.mark.parametrize("verdicts", [(), (refused(policy("strict-one", on_failure="closed"), source="fallback"),)])
def test_what_cannot_be_decided_is_503(verdicts: tuple[Verdict, ...]) -> None:
    problem = refusal(Decision(False, verdicts, 1, unavailable=True), LIST)
    body = body_of(problem)
    assert (problem.status, body["code"]) == (503, "limiter_unavailable")
    assert body["type"] == "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
    assert int(problem.headers["Retry-After"]) >= 1
    assert "violated-policies" not in body, "nothing was exceeded"
    assert ("'strict-one'" in body["detail"]) == bool(verdicts)


def test_the_contract_describes_it() -> None:
    for decision in (
        Decision(
            False, (refused(policy(plan="pro")), refused(policy("b", unit="concurrent-requests", window=None))), 3
        ),
        Decision(False, (), 1, unavailable=True),
    ):
        body = body_of(refusal(decision, BULK))
        document = LimitProblem.model_validate(body)
        assert document.receipt is not None
        assert set(body) <= {field.alias or name for name, field in LimitProblem.model_fields.items()}
        shown = document.receipt.model_dump(mode="json")["policies"]
        assert [set(each) for each in body["receipt"]["policies"]] == [set(each) for each in shown]
