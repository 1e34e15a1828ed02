"""``/v1/usage``."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest

from services.ratelimit.usage.domain import Span, pieces
from tests.services.ratelimit.recording import Process, Row, minutes_ago
from tests.services.ratelimit.support import problem

PATH = "/v1/usage"
KEY_A, KEY_B, ADA = (f"0198c5a0-0000-7000-8000-00000000000{number}" for number in range(1, 4))
NOON = (minutes_ago(0) - timedelta(days=2)).replace(hour=12, minute=0)
FROM_NOON = {"from": NOON.isoformat(), "to": (NOON + timedelta(hours=3)).isoformat()}


async def asked(client: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    answer = await client.get(PATH, params={**FROM_NOON, **params})
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["data"]
    return rows


def at(minutes: int) -> str:
    return (NOON + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")


async def some(process: Process) -> None:
    first = Row(NOON, KEY_A, calls=5, refused=1, cost=40, user_id=ADA)
    await process.record(
        first,
        replace(first, minute=NOON + timedelta(minutes=59), calls=2, shadow_refused=2),
        replace(first, minute=NOON + timedelta(minutes=60), route="POST /v1/contacts", route_class="write"),
        replace(first, actor_id=KEY_B, user_id=None),
        replace(first, actor_id=ADA, actor_type="user", calls=3),
    )


class TestList:
    async def test_of_the_last_hour_by_key_unless_told_otherwise(
        self, limits: httpx.AsyncClient, process: Process
    ) -> None:
        await process.record(
            Row(minutes_ago(0), KEY_A, calls=3), Row(minutes_ago(50), KEY_A), Row(minutes_ago(70), KEY_A)
        )
        rows = (await limits.get(PATH)).json()["data"]
        assert sum(row["calls"] for row in rows) == 4
        assert {row["key"] for row in rows} == {KEY_A}

    async def test_by_hour_and_key(self, limits: httpx.AsyncClient, process: Process) -> None:
        await some(process)
        assert await asked(limits) == [
            {"start": at(0), "key": None, "calls": 3, "refused": 1, "cost": 40, "shadow_refused": 0},
            {"start": at(0), "key": KEY_A, "calls": 7, "refused": 2, "cost": 80, "shadow_refused": 2},
            {"start": at(0), "key": KEY_B, "calls": 5, "refused": 1, "cost": 40, "shadow_refused": 0},
            {"start": at(60), "key": KEY_A, "calls": 5, "refused": 1, "cost": 40, "shadow_refused": 0},
        ]

    @pytest.mark.parametrize(
        "grouping, expected",
        [
            ("route", [(0, "GET /v1/contacts", 15), (60, "POST /v1/contacts", 5)]),
            ("class", [(0, "read", 15), (60, "write", 5)]),
            ("user", [(0, ADA, 10), (0, None, 5), (60, ADA, 5)]),
        ],
    )
    async def test_by_other_things(
        self, limits: httpx.AsyncClient, process: Process, grouping: str, expected: list[Any]
    ) -> None:
        await some(process)
        rows = await asked(limits, group_by=grouping)
        found = [(row["start"], row[grouping], row["calls"]) for row in rows]
        assert sorted(found, key=str) == sorted(
            [(at(start), value, calls) for start, value, calls in expected], key=str
        )

    async def test_by_minute_and_by_day(self, limits: httpx.AsyncClient, process: Process) -> None:
        await some(process)
        rows = await asked(limits, interval="minute", group_by="class")
        assert [(row["start"], row["calls"]) for row in rows] == [(at(0), 13), (at(59), 2), (at(60), 5)]
        rows = await asked(limits, interval="day", group_by="class")
        midnight = NOON.replace(hour=0).isoformat().replace("+00:00", "Z")
        assert [(row["start"], row["class"], row["calls"]) for row in rows] == [
            (midnight, "read", 15),
            (midnight, "write", 5),
        ]

    @pytest.mark.parametrize(
        "filters, calls",
        [
            ({"key": KEY_A}, 12),
            ({"key": KEY_A, "class": "write"}, 5),
            ({"route": "GET /v1/contacts"}, 15),
            ({"user": ADA}, 15),
            ({"from": at(1), "to": at(60)}, 2),
            ({"from": (NOON + timedelta(seconds=30)).isoformat(), "to": at(1)}, 13),
        ],
    )
    async def test_filters(
        self, limits: httpx.AsyncClient, process: Process, filters: dict[str, str], calls: int
    ) -> None:
        await some(process)
        assert sum(row["calls"] for row in await asked(limits, **filters)) == calls

    async def test_answers_pages(self, limits: httpx.AsyncClient, process: Process) -> None:
        await process.record(*[Row(NOON + timedelta(minutes=7 * n), KEY_A if n % 3 else KEY_B) for n in range(20)])
        whole = await asked(limits, interval="minute", group_by="key")
        assert len(whole) == 20
        rows, cursor = [], None
        while True:
            params = {"interval": "minute", "limit": "3", **({"cursor": cursor} if cursor else {})}
            page = (await limits.get(PATH, params={**FROM_NOON, **params})).json()
            rows += page["data"]
            cursor = page["next_cursor"]
            assert page["has_more"] == (cursor is not None)
            if cursor is None:
                break
        assert rows == whole

    async def test_shows_a_stranger_nothing(self, stranger: httpx.AsyncClient, process: Process) -> None:
        await some(process)
        assert await asked(stranger) == []

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.get(PATH), 403, "missing_scope")

    @pytest.mark.parametrize(
        "params, field",
        [
            ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
            ({"from": "2100-01-02T00:00:00Z"}, "from"),
            ({"from": "2026-01-01T00:00:00Z", "to": "2026-02-05T00:01:00Z"}, "from"),
            ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:01:00Z", "interval": "minute"}, "interval"),
            ({"from": "yesterday"}, "from"),
            ({"group_by": "colour"}, "group_by"),
            ({"key": "x"}, "key"),
            ({"class": "x"}, "class"),
        ],
    )
    async def test_refuses_a_bad_parameter(self, limits: httpx.AsyncClient, params: dict[str, str], field: str) -> None:
        problem(await limits.get(PATH, params=params), 422, "validation_failed", field)

    async def test_refuses_a_cursor_of_another_list(self, limits: httpx.AsyncClient, process: Process) -> None:
        await some(process)
        cursor = (await limits.get(PATH, params={**FROM_NOON, "limit": "1"})).json()["next_cursor"]
        problem(await limits.get(PATH, params={"cursor": cursor, "interval": "day"}), 400, "invalid_cursor")
        problem(await limits.get(PATH, params={"cursor": "x"}), 400, "invalid_cursor")


def test_pieces_are_the_span_without_gaps() -> None:
    start = datetime(2026, 1, 1, 0, 7, tzinfo=UTC)
    found = list(pieces(start, start + timedelta(days=35), "hour"))
    assert (found[0].start, found[-1].end) == (start, start + timedelta(days=35))
    assert all(before.end == after.start for before, after in pairwise(found))
    assert all(piece.start.minute == 0 for piece in found[1:])
    assert len(found) < 10
    assert list(pieces(start, start, "day")) == []


def test_a_span_knows_its_length() -> None:
    assert Span(NOON, NOON + timedelta(hours=1)).length == timedelta(hours=1)
