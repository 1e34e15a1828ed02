"""RateLimit and RateLimit-Policy, read back by an independent parser of structured fields."""

import math
from typing import Any
from uuid import UUID

import http_sf
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.limits import headers
from shared.limits.decision import Verdict
from shared.limits.headers import limit_headers
from shared.limits.policies import SECONDS, Policy, Unit, Window

ORGANIZATION = UUID(int=1)
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,62}", fullmatch=True)
WINDOWS: st.SearchStrategy[Window | None] = st.sampled_from([*SECONDS, None])
SUBJECTS = st.one_of(
    st.just("organization"),
    st.uuids().map(lambda each: f"key:{each}"),
    st.uuids().map(lambda each: f"user:{each}|route:GET /v1/contacts/{{contact_id}}"),
)


def policy(name: str = "minute", window: Window | None = "minute", **fields: Any) -> Policy:
    unit: Unit = "requests" if window else "concurrent-requests"
    return Policy(UUID(int=7), ORGANIZATION, name, 1, unit, window, **fields)


def verdict(of: Policy, subject: str = "organization", quota: int = 100, left: int = 9, resets: float = 1.0) -> Verdict:
    return Verdict(of, subject, quota, left, resets, allowed=True, source="lease")


@st.composite
def verdicts(draw: st.DrawFn) -> Verdict:
    return verdict(
        policy(draw(NAMES), draw(WINDOWS), shadow=draw(st.booleans())),
        draw(SUBJECTS),
        quota := draw(st.integers(0, 10**12)),
        draw(st.integers(0, quota)),
        draw(st.floats(0, SECONDS["month"])),
    )


def parsed(given: list[Verdict]) -> dict[str, Any]:
    """The items of each field: ``(name, parameters)``."""
    return {name.decode(): http_sf.parse(value, tltype="list") for name, value in limit_headers(given)}


@given(st.lists(verdicts(), min_size=1, max_size=5))
@example([verdict(policy("a" * 63), quota=10**12, left=10**12)])
def test_an_independent_parser_reads_what_was_meant(given: list[Verdict]) -> None:
    shown = [each for each in given if not each.policy.shadow]
    fields = parsed(given)
    assert bool(fields) == bool(shown)
    if not shown:
        return
    for each, (name, limit), (same, state) in zip(shown, fields["ratelimit-policy"], fields["ratelimit"], strict=True):
        kind = {"w": each.policy.seconds} if each.policy.window else {"qu": "concurrent-requests"}
        until = {"t": math.ceil(each.resets_in)} if each.policy.window else {}
        partition = {"pk": limit["pk"]} if each.subject != "organization" else {}
        assert name == same == each.policy.name
        assert limit == {"q": each.quota} | kind | partition
        assert state == {"r": each.remaining} | until | partition


def test_the_text() -> None:
    given = [
        verdict(policy("burst", "second"), left=99, resets=0.2),
        verdict(policy(), "key:a", 6000, 50, 29.01),
        verdict(policy("at-once", None), quota=10, left=3, resets=0.0),
    ]
    assert limit_headers(given) == [
        (
            b"ratelimit-policy",
            b'"burst";q=100;w=1, "minute";q=6000;w=60;pk=:aCxCxSbj:, "at-once";q=10;qu="concurrent-requests"',
        ),
        (b"ratelimit", b'"burst";r=99;t=1, "minute";r=50;t=30;pk=:aCxCxSbj:, "at-once";r=3'),
    ]


def test_subjects_are_told_apart_and_not_told() -> None:
    keys = {parsed([verdict(policy(), f"key:{number}")])["ratelimit"][0][1]["pk"] for number in range(50)}
    assert len(keys) == 50
    assert all(isinstance(each, bytes) and len(each) == 6 for each in keys)


def test_a_changed_policy_is_told_at_once() -> None:
    before = parsed([verdict(policy(), quota=10)])["ratelimit-policy"]
    after = parsed([verdict(policy(window="hour"), quota=20)])["ratelimit-policy"]
    assert (before, after) == ([("minute", {"q": 10, "w": 60})], [("minute", {"q": 20, "w": 3600})])


def test_without_a_policy_there_is_no_field() -> None:
    assert limit_headers(()) == []
    assert limit_headers([verdict(policy(shadow=True))]) == []


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "_MEMORY", 20)
    headers._START.following.clear()
    monkeypatch.setattr(headers._Line, "made", 0)
    for number in range(100):
        fields = parsed([verdict(policy("burst", "second")), verdict(policy(), f"key:{number}", quota=number)])
        assert fields["ratelimit-policy"][1][1]["q"] == number
        assert len(headers._START.following) <= 1
        assert headers._Line.made <= 20
