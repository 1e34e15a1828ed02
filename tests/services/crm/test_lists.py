"""Sort orders, cursors, search and filters of the lists."""

from typing import Any

import httpx
import pytest

from services.crm.records.repository import RECENT_WINDOW
from shared.clock import FixedClock
from shared.http.pagination import encode_cursor
from tests.services.crm.support import KINDS, Kind, made, problem

ORDERS = {
    "contacts": ("created_at", "updated_at", "name"),
    "companies": ("created_at", "updated_at", "name"),
    "deals": ("created_at", "updated_at", "name", "amount_minor"),
    "activities": ("created_at", "updated_at", "occurred_at"),
}
SORTS = [(kind, sign + order) for kind in KINDS for order in ORDERS[kind.plural] for sign in ("", "-")]


def shown_key(record: dict[str, Any], sort: str) -> tuple[Any, str]:
    order = sort.lstrip("-")
    if order != "name":
        return record[order], record["id"]
    name = record["name"] if "name" in record else f"{record['last_name']} {record['first_name']}"
    return name.lower(), record["id"]


async def pages(crm: httpx.AsyncClient, path: str, **params: str) -> list[list[dict[str, Any]]]:
    found = []
    while True:
        answer = await crm.get(path, params=params)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found.append(page["data"])
        assert page["has_more"] is (page["next_cursor"] is not None)
        if not page["has_more"]:
            return found
        params["cursor"] = page["next_cursor"]


def varied(kind: Kind, number: int) -> dict[str, Any]:
    """Bodies among which every sort value comes more than once."""
    half = number // 2
    bodies: dict[str, dict[str, Any]] = {
        "contacts": {"first_name": "Ada", "last_name": f"L{half}"},
        "companies": {"name": f"Engines {half}"},
        "deals": {"name": f"Engine {half}", "amount_minor": half},
        "activities": {"kind": "note", "subject": "x", "occurred_at": f"2026-01-{half + 1:02}T00:00:00Z"},
    }
    return bodies[kind.plural]


@pytest.mark.parametrize(("kind", "sort"), SORTS, ids=[f"{kind.plural}:{sort}" for kind, sort in SORTS])
async def test_pages_follow_the_order_also_where_values_are_equal(
    crm: httpx.AsyncClient, frozen_clock: FixedClock, kind: Kind, sort: str
) -> None:
    items = [varied(kind, number) for number in range(10)]
    for some in (items[::3], items[1::3], items[2::3]):
        answer = await crm.post(f"{kind.path}/bulk", json={"items": some})
        assert answer.status_code == 201
        frozen_clock.advance(seconds=1)
    found = await pages(crm, kind.path, sort=sort, limit="3")
    assert [len(page) for page in found] == [3, 3, 3, 1]
    rows = [row for page in found for row in page]
    assert len({row["id"] for row in rows}) == 10
    assert rows == sorted(rows, key=lambda row: shown_key(row, sort), reverse=sort.startswith("-"))
    assert "sort_name" not in rows[0]


async def test_pages_hold_while_rows_are_inserted(crm: httpx.AsyncClient, frozen_clock: FixedClock, kind: Kind) -> None:
    first = [await made(crm, kind.path, **kind.body) for _ in range(4)]
    page = (await crm.get(kind.path, params={"sort": "-created_at", "limit": "2"})).json()
    frozen_clock.advance(seconds=1)
    await made(crm, kind.path, **kind.body)
    rest = (
        await crm.get(kind.path, params={"sort": "-created_at", "limit": "2", "cursor": page["next_cursor"]})
    ).json()
    assert {row["id"] for row in page["data"] + rest["data"]} == {row["id"] for row in first}


BAD_CURSORS = [
    "x",
    "!!!!",
    "é",
    "AAAA",
    encode_cursor("-created_at", []),
    encode_cursor("created_at", ["2026-01-01T00:00:00Z", KINDS[0].name]),
    encode_cursor("-created_at", ["2026-01-01T00:00:00Z", "1"]),
    encode_cursor("-created_at", ["2026-01-01T00:00:00", "01900000-0000-7000-8000-000000000000"]),
    encode_cursor("-created_at", ["0001-01-01T00:00:00+23:00", "01900000-0000-7000-8000-000000000000"]),
    encode_cursor("-created_at", [1, "01900000-0000-7000-8000-000000000000"]),
    encode_cursor("-created_at", ["2026-01-01T00:00:00Z", 7]),
    encode_cursor("-created_at", ["2026-01-01T00:00:00Z", "01900000-0000-7000-8000-000000000000", 1]),
]


@pytest.mark.parametrize("cursor", BAD_CURSORS)
async def test_a_cursor_of_ones_own_making_is_refused(crm: httpx.AsyncClient, kind: Kind, cursor: str) -> None:
    answer = await crm.get(kind.path, params={"cursor": cursor, "sort": "-created_at"})
    problem(answer, 400, "invalid_cursor", "cursor")


async def test_a_cursor_that_was_tampered_with_is_refused(crm: httpx.AsyncClient) -> None:
    for number in range(2):
        await made(crm, "/v1/deals", name=f"Engine {number}")
    for sort in ("name", "-amount_minor", "created_at"):
        cursor = (await crm.get("/v1/deals", params={"limit": "1", "sort": sort})).json()["next_cursor"]
        for position in range(len(cursor)):
            other = "A" if cursor[position] != "A" else "B"
            tampered = cursor[:position] + other + cursor[position + 1 :]
            answer = await crm.get("/v1/deals", params={"cursor": tampered, "sort": sort})
            problem(answer, 400, "invalid_cursor", "cursor")
        answer = await crm.get("/v1/deals", params={"cursor": cursor, "sort": "updated_at"})
        problem(answer, 400, "invalid_cursor", "cursor")


@pytest.mark.parametrize(
    ("sort", "value"),
    [("name", "a\x00"), ("name", 1), ("amount_minor", 2**64 - 1), ("amount_minor", True), ("amount_minor", "1")],
)
async def test_a_cursor_with_a_value_of_another_kind_is_refused(
    crm: httpx.AsyncClient, sort: str, value: object
) -> None:
    column = "sort_name" if sort == "name" else sort
    cursor = encode_cursor(column, [value, "01900000-0000-7000-8000-000000000000"])
    problem(await crm.get("/v1/deals", params={"cursor": cursor, "sort": sort}), 400, "invalid_cursor", "cursor")


async def test_times_and_owner_filter(crm: httpx.AsyncClient, frozen_clock: FixedClock, kind: Kind) -> None:
    old = await made(crm, kind.path, **kind.body)
    frozen_clock.advance(days=1)
    new = await made(crm, kind.path, **kind.body, owner_id="01900000-0000-7000-8000-000000000000")
    frozen_clock.advance(days=1)
    await crm.patch(f"{kind.path}/{old['id']}", json=kind.change)
    noon = "2026-01-16T12:00:00Z"
    for params, ids in (
        ({"created_after": noon}, [new["id"]]),
        ({"created_before": noon}, [old["id"]]),
        ({"updated_after": "2026-01-17T00:00:00+00:00"}, [old["id"]]),
        ({"owner_id": new["owner_id"]}, [new["id"]]),
        ({"owner_id": old["owner_id"], "created_before": noon}, [old["id"]]),
    ):
        found = (await crm.get(kind.path, params=params)).json()["data"]
        assert [row["id"] for row in found] == ids, params


SEARCHES = [
    ("contacts", {"first_name": "Ada", "last_name": "O'Neil-Lovelace", "email": "ada@engines.example", "phone": "+44 20-7946"},
     ["ada", "ADA love", "neil", "O'Neil", "engines.exa", "ada@engines.example", "7946", "+44", "lov ada"], ["adb", "xyz ada", "da"]),
    ("companies", {"name": "Analytical Engines", "domain": "engines.example", "industry": "Computing"},
     ["analyt", "engines.example", "comp"], ["loom"]),
    ("deals", {"name": "First engine & 2nd | loom \\ it's"}, ["engine", "2nd loom", "\\ it's", "first & engine"], ["third"]),
    ("activities", {"kind": "call", "subject": "Talk", "body": "About Grüße und 東京"}, ["grüß", "東京", "talk about"], ["tokyo"]),
]  # fmt: skip


@pytest.mark.parametrize(("plural", "body", "hits", "misses"), SEARCHES, ids=[each[0] for each in SEARCHES])
async def test_search_finds_words_by_their_beginnings(
    crm: httpx.AsyncClient,
    stranger: httpx.AsyncClient,
    plural: str,
    body: dict[str, str],
    hits: list[str],
    misses: list[str],
) -> None:
    record = await made(crm, f"/v1/{plural}", **body)
    for q in hits:
        found = (await crm.get(f"/v1/{plural}", params={"q": q})).json()["data"]
        assert [each["id"] for each in found] == [record["id"]], q
        assert (await stranger.get(f"/v1/{plural}", params={"q": q})).json()["data"] == []
    for q in misses:
        assert (await crm.get(f"/v1/{plural}", params={"q": q})).json()["data"] == [], q


@pytest.mark.parametrize("q", ["", "  ", "\u00a0"])
async def test_a_search_for_nothing_is_no_search(crm: httpx.AsyncClient, kind: Kind, q: str) -> None:
    await made(crm, kind.path, **kind.body)
    assert len((await crm.get(kind.path, params={"q": q})).json()["data"]) == 1


@pytest.mark.parametrize("q", ["!!!", "@", "'", "\\", "&|!()<->:*", "%_", "\U0001f600", "x" * 200, "'' OR 1=1 --"])
async def test_a_search_for_anything_is_answered(crm: httpx.AsyncClient, kind: Kind, q: str) -> None:
    await made(crm, kind.path, **kind.body)
    answer = await crm.get(kind.path, params={"q": q})
    assert (answer.status_code, answer.json()["data"]) == (200, [])


async def test_search_pages_and_sorts(crm: httpx.AsyncClient) -> None:
    items = [{"name": f"{'Engine' if number % 2 else 'Loom'} {number}"} for number in range(9)]
    await crm.post("/v1/companies/bulk", json={"items": items})
    found = await pages(crm, "/v1/companies", q="eng", sort="-name", limit="3")
    assert [[each["name"] for each in page] for page in found] == [["Engine 7", "Engine 5", "Engine 3"], ["Engine 1"]]


async def test_search_looks_beyond_the_newest(crm: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert RECENT_WINDOW > 200
    monkeypatch.setattr("services.crm.records.repository.RECENT_WINDOW", 5)
    for number in range(4):
        await made(crm, "/v1/companies", name=f"Engine {number}", tags=["old"])
    await crm.post("/v1/companies/bulk", json={"items": [{"name": "Loom"}] * 10})
    for params in ({"q": "engine"}, {"tag": "old"}):
        found = await pages(crm, "/v1/companies", limit="3", **params)
        assert [each["name"] for page in found for each in page] == [f"Engine {n}" for n in (3, 2, 1, 0)]


async def test_tags_and_custom_fields_filter(crm: httpx.AsyncClient, kind: Kind) -> None:
    for key, type_ in (("tier", "text"), ("score", "number"), ("active", "boolean")):
        await made(crm, "/v1/custom-fields", record_type=kind.name, key=key, label=key, type=type_)
    values = {"tier": "a:b", "score": 5, "active": True}
    record = await made(crm, kind.path, **kind.body, tags=["vip", "new"], custom_fields=values)
    await made(crm, kind.path, **kind.body, tags=["vi"])
    for params in (
        {"tag": "vip"},
        {"custom_field": "tier:a:b"},
        {"custom_field": "score:5"},
        {"custom_field": "active:true"},
    ):
        found = (await crm.get(kind.path, params=params)).json()["data"]
        assert [each["id"] for each in found] == [record["id"]], params
    assert (await crm.get(kind.path, params={"custom_field": "tier:"})).json()["data"] == []
    both = {"tag": "vip", "custom_field": "tier:a:b", "q": ""}
    assert len((await crm.get(kind.path, params=both)).json()["data"]) == 1


async def test_the_longest_name_makes_a_cursor_that_is_taken(crm: httpx.AsyncClient) -> None:
    for _ in range(2):
        await made(crm, "/v1/contacts", first_name="\U0001f600" * 200, last_name="\U0001f600" * 200)
    assert len(await pages(crm, "/v1/contacts", sort="name", limit="1")) == 2
