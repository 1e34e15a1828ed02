"""The checker of gateway runs finds what is planted: one that cannot fail shows nothing."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.chaos.gateway_checker import ALLOWANCE, check, counted, is_final
from tests.chaos.gateway_history import Attempt, Findings, History, Look, Operation, Purpose

SIGNED = 1_000_000.0


def answer(status: int = 201, code: str = "", **fields: Any) -> Attempt:
    """A whole answer that came within a tenth of a second."""
    values: dict[str, Any] = {"answer": "same", "retry_after": "1" if status == 503 else ""}
    return Attempt(0, 10.0, 10.1, "answer", status, code, **(values | fields))


def nothing(outcome: Any = "silent", **fields: Any) -> Attempt:
    return Attempt(0, 10.0, 10.1, outcome, **fields)


def judge(purpose: Purpose, *attempts: Attempt, rows: int = 1, **fields: Any) -> Findings:
    operation = Operation("chaos-1", purpose, SIGNED, list(attempts))
    found: Mapping[str, int] = {"chaos-1": rows} if rows else {}
    return check(History([operation], found, **fields))


def kinds(found: Findings) -> set[str]:
    return {kind for kind, count in counted(found.violations).items() if count}


AGAIN = answer(marked=True)
BUSY = answer(409, "idempotency_in_progress")
AWAY = answer(503, "service_unavailable")
REPLAYED = answer(401, "signature_replayed", replay=True)


@pytest.mark.parametrize(
    ("purpose", "attempts", "rows"),
    [
        ("keyed", (nothing(), AWAY, BUSY, answer(), AGAIN, AGAIN), 1),
        ("keyed", (answer(502, "bad_gateway"), AGAIN), 1),
        ("keyed", (nothing("refused"), nothing("broken")), 0),
        ("keyed", (nothing(),), 1),
        ("once", (answer(), REPLAYED, REPLAYED, answer(504, "upstream_timeout", replay=True)), 1),
        ("once", (nothing(), answer(replay=True), REPLAYED), 1),
        ("once", (nothing(), REPLAYED), 1),
        ("once", (nothing(), REPLAYED), 0),
        ("read", (answer(200),), 0),
        ("read", (nothing("broken", status=200),), 0),
        ("changed", (answer(401, "signature_digest"),), 0),
    ],
)
def test_what_is_sound(purpose: Purpose, attempts: tuple[Attempt, ...], rows: int) -> None:
    assert kinds(judge(purpose, *attempts, rows=rows)) == set()


@pytest.mark.parametrize("purpose", ["keyed", "once"])
def test_nothing_is_there_twice_or_lost(purpose: Purpose) -> None:
    assert kinds(judge(purpose, answer(), rows=2)) == {"doubled"}
    assert kinds(judge(purpose, nothing(), rows=2)) == {"doubled"}
    assert kinds(judge(purpose, answer(), rows=0)) == {"lost"}


def test_a_keyed_operation_has_one_answer() -> None:
    assert kinds(judge("keyed", answer(), answer(marked=True, answer="other"))) == {"different"}
    assert kinds(judge("keyed", answer(), answer(200, marked=True))) == {"different"}
    assert kinds(judge("keyed", answer(), AGAIN, answer())) == {"unmarked"}


def test_a_signature_is_good_once() -> None:
    assert kinds(judge("once", answer(), answer(replay=True))) == {"replayed"}
    assert kinds(judge("once", answer(), answer(replay=True), rows=2)) == {"replayed", "doubled"}


def test_what_was_refused_for_good_is_not_there() -> None:
    refused = answer(401, "signature_digest")
    assert kinds(judge("keyed", refused, rows=0)) == {"unexpected"}
    assert kinds(judge("keyed", refused)) == {"unexpected", "phantom"}
    assert kinds(check(History([], {"chaos-2": 1}))) == {"phantom"}


def test_content_that_nobody_signed() -> None:
    assert kinds(judge("changed", answer(401, "signature_digest"))) == {"executed"}
    assert kinds(judge("changed", answer(), rows=0)) == {"executed"}


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (answer(500, "internal_error"), "server-error"),
        (answer(503, "?"), "malformed"),
        (answer(502, "bad_gateway", sound=False), "malformed"),
        (answer(403, "forbidden"), "unexpected"),
        (answer(502, "service_unavailable"), "unexpected"),
        (answer(503, "overloaded", retry_after=""), "no-retry-after"),
        (answer(503, "overloaded", retry_after="0"), "no-retry-after"),
        (answer(503, "overloaded", retry_after="soon"), "no-retry-after"),
        (answer(200, sound=False), "torn"),
    ],
)
def test_each_answer_by_itself(wrong: Attempt, kind: str) -> None:
    assert kinds(judge("read", wrong, rows=0)) == {kind}


def test_what_never_ended_is_nobody_s_answer() -> None:
    assert kinds(judge("read", nothing("broken", status=500, sound=False), rows=0)) == set()


@pytest.mark.parametrize("purpose", ["keyed", "once"])
def test_nothing_makes_a_new_signature_a_used_one(purpose: Any) -> None:
    assert kinds(judge(purpose, answer(401, "signature_replayed"), rows=0)) == {"unexpected"}


def test_retries_have_a_budget() -> None:
    def looked(requests: float, retries: float) -> set[str]:
        return kinds(check(History([], {}, looks=[Look("gateway-0", "crm", requests, retries)])))

    assert looked(100, ALLOWANCE + 10) == set()
    assert looked(100, ALLOWANCE + 11) == {"retries"}
    assert looked(0, ALLOWANCE + 1) == {"retries"}


def test_what_there_was_to_judge() -> None:
    looks = [Look("a", "crm", 10, 1), Look("a", "crm", 20, 3), Look("b", "crm", 20, 2)]
    found = judge("once", answer(), REPLAYED, nothing("broken"), looks=looks)
    assert (found.acknowledged, found.replays, found.broken, found.retries) == (1, 1, 1, 5)
    assert judge("keyed", answer(), AGAIN).marked == 1
    assert judge("keyed", AWAY, nothing(), answer()).told == {"503 service_unavailable": 1, "silent": 1}


def test_when_a_client_gives_up() -> None:
    assert [status for status in (200, 401, 409, 422, 429, 500, 503) if is_final(status)] == [401, 422]
