"""The audit log over HTTP, against the real database."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.audit.repository import RECENT_WINDOW
from shared.auth import Principal
from shared.auth.principal import ANONYMOUS
from shared.db import Database
from shared.errors import BadRequest, Forbidden, NotFound, Unauthenticated, ValidationFailed
from shared.ids import new_id
from shared.testing.plugin import PrincipalFactory
from tests.services.audit.conftest import Get
from tests.services.audit.support import TRACE_ID, make_event, record

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


def ids(page: Any) -> list[str]:
    return [entry["id"] for entry in page["data"]]


async def test_an_entry_shows_who_did_what_to_which_record_and_when(
    audit: Database, get: Get, reader: Principal
) -> None:
    event = make_event(
        reader.organization_id,
        "contact.updated",
        time=NOON,
        sequence=7,
        data={"changes": {"phone": {"before": None, "after": "+44"}}, "reason": "asked"},
        correlationid="request-1",
        causationid="cause-1",
        traceparent=f"00-{TRACE_ID}-00f067aa0ba902b7-01",
    )
    await record(audit, event)
    entry = await get(f"/v1/audit/events/{event.id}")
    recorded_at = datetime.fromisoformat(entry.pop("recorded_at"))
    assert recorded_at > NOON
    assert entry == {
        "id": str(event.id),
        "action": "contact.updated",
        "actor": {"type": "user", "id": event.authid},
        "target": {"type": "contact", "id": str(event.subject)},
        "occurred_at": "2026-01-15T12:00:00Z",
        "source": "crm",
        "risk_level": "low",
        "request_id": "request-1",
        "causation_id": "cause-1",
        "trace_id": TRACE_ID,
        "sequence": 7,
        "schema_version": 1,
        "changes": {"phone": {"before": None, "after": "+44"}},
        "data": {"reason": "asked"},
    }
    (listed,) = (await get())["data"]
    del listed["recorded_at"]
    assert listed == entry


async def test_pages_go_newest_first_and_hold_every_entry_once(audit: Database, get: Get, reader: Principal) -> None:
    subject = new_id()
    # Several at the same instant, as under an injected clock: the target's version then says the order.
    events = [
        make_event(reader.organization_id, subject=subject, sequence=n, time=NOON + timedelta(days=n // 3 * 20))
        for n in range(10)
    ]
    await record(audit, *events)
    expected = [str(event.id) for event in reversed(events)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while cursor.get("cursor", "first"):
        page = await get(limit=3, **cursor)
        assert page["has_more"] == (page["next_cursor"] is not None)
        seen += ids(page)
        cursor = {"cursor": page["next_cursor"]}
    assert seen == expected


@pytest.mark.parametrize(
    "filters",
    [
        {"actor_id": "somebody"},
        {"actor_type": "api_key"},
        {"action": "deal.stage_changed"},
        {"action": "deal.*"},
        {"target_type": "deal"},
        {"target_id": "0198c5a0-0000-7000-8000-0000000000dd"},
        {"occurred_after": "2026-01-15T12:00:00Z"},
        {"occurred_after": "2026-01-15T13:00:00+01:00", "occurred_before": "2026-01-15T12:00:01Z"},
        {"risk_level": "low", "action": "deal.stage_changed"},
        {"q": "Zanzibar"},
        {"q": "stage zanz"},
        {"q": "deal.stage_changed", "actor_id": "somebody", "occurred_after": "2026-01-01T00:00:00Z"},
    ],
    ids=str,
)
async def test_each_filter_keeps_the_entry_it_describes_and_no_other(
    audit: Database, get: Get, reader: Principal, filters: dict[str, str]
) -> None:
    wanted = make_event(
        reader.organization_id,
        "deal.stage_changed",
        authtype="api_key",
        authid="somebody",
        subject=new_id() if "target_id" not in filters else type(new_id())(filters["target_id"]),
        time=NOON,
        data={"note": "moved in Zanzibar"},
    )
    others = [
        make_event(reader.organization_id, action, time=NOON - timedelta(hours=1))
        for action in ("contact.created", "dealer.created", "contact.deleted")
    ]
    await record(audit, wanted, *others)
    assert ids(await get(**filters)) == [str(wanted.id)]


async def test_occurred_before_leaves_the_bound_itself_out(audit: Database, get: Get, reader: Principal) -> None:
    early, late = (make_event(reader.organization_id, time=NOON + timedelta(hours=n)) for n in range(2))
    await record(audit, early, late)
    assert ids(await get(occurred_before="2026-01-15T13:00:00Z")) == [str(early.id)]
    assert ids(await get(occurred_after="2026-01-15T13:00:00Z")) == [str(late.id)]


async def test_risky_actions_can_be_asked_for(audit: Database, get: Get, reader: Principal) -> None:
    actions = ["contact.created", "contact.deleted", "member.role_changed", "api_key.created", "user.sign_in_failed"]
    await record(audit, *[make_event(reader.organization_id, action) for action in actions])
    found = await get(risk_level="medium")
    assert {entry["action"] for entry in found["data"]} == set(actions[1:])


async def test_search_finds_what_is_older_than_its_window(audit: Database, get: Get, reader: Principal) -> None:
    organization = reader.organization_id
    old = make_event(organization, data={"name": "Ada Lovelace", "email": "ada@example.com"}, time=NOON)
    await record(audit, old)
    crowd = [make_event(organization, time=NOON + timedelta(seconds=n + 1)) for n in range(RECENT_WINDOW + 1)]
    await record(audit, *crowd)
    for words in ("lovelace", "Lovel ada", "ada@example.com", str(old.subject)):
        assert ids(await get(q=words)) == [str(old.id)], words
    assert (await get(q="lovelace babbage"))["data"] == []
    assert len((await get(q="contact", limit=200))["data"]) == 200


async def test_search_goes_on_behind_a_cursor(audit: Database, get: Get, reader: Principal) -> None:
    events = [make_event(reader.organization_id, data={"n": "zebra"}, time=NOON + timedelta(n)) for n in range(5)]
    await record(audit, *events)
    first = await get(q="zebra", limit=3)
    rest = await get(q="zebra", limit=3, cursor=first["next_cursor"])
    assert ids(first) + ids(rest) == [str(event.id) for event in reversed(events)]


@pytest.mark.parametrize("q", ["", "   ", "'", "\\", "a & | ! ( ) :* <->", "%", "é'é\\"])
async def test_no_text_breaks_the_search(get: Get, q: str) -> None:
    assert (await get(q=q))["data"] == []


async def test_another_organisation_sees_nothing(audit: Database, get: Get, reader: Principal) -> None:
    event = make_event(reader.organization_id, data={"name": "Ada"})
    await record(audit, event)
    stranger = Principal(new_id(), "user", str(new_id()), frozenset({"audit:read"}), request_id="test")
    for filters in ({}, {"q": "ada"}, {"target_id": event.subject}, {"actor_id": event.authid}):
        assert (await get(principal=stranger, **filters))["data"] == []
    with pytest.raises(NotFound):
        await get(f"/v1/audit/events/{event.id}", principal=stranger)


async def test_a_cursor_of_another_organisation_shows_only_ones_own(
    audit: Database, get: Get, reader: Principal
) -> None:
    await record(audit, *[make_event(reader.organization_id) for _ in range(3)])
    cursor = (await get(limit=1))["next_cursor"]
    stranger = Principal(new_id(), "user", str(new_id()), frozenset({"audit:read"}), request_id="test")
    assert (await get(principal=stranger, cursor=cursor))["data"] == []


async def test_the_scope_is_needed(get: Get, principal: PrincipalFactory) -> None:
    for path in ("/v1/audit/events", f"/v1/audit/events/{new_id()}"):
        with pytest.raises(Forbidden) as caught:
            await get(path, principal=principal("contacts:read"))
        assert caught.value.code == "missing_scope"
        with pytest.raises(Unauthenticated):
            await get(path, principal=ANONYMOUS)


@pytest.mark.parametrize(
    "params",
    [
        {"limit": "0"},
        {"limit": "201"},
        {"action": "Contact.*"},
        {"action": "*"},
        {"action": "a.*.b"},
        {"target_id": "7"},
        {"actor_type": "robot"},
        {"risk_level": "none"},
        {"occurred_after": "yesterday"},
        {"occurred_after": "2026-01-15T12:00:00"},
        {"occurred_before": "9999-12-31T23:59:59Z"},
        {"q": "a\x00b"},
        {"actor_id": "a\x00b"},
        {"unknown": "1"},
    ],
    ids=str,
)
async def test_a_bad_parameter_is_named(get: Get, params: dict[str, str]) -> None:
    with pytest.raises(ValidationFailed) as caught:
        await get(**params)
    assert [error["field"] for error in caught.value.errors] == list(params)


@pytest.mark.parametrize("cursor", ["x", "W10", "eyJhIjoxfQ"])
async def test_a_foreign_cursor_is_refused(get: Get, cursor: str) -> None:
    with pytest.raises(BadRequest) as caught:
        await get(cursor=cursor)
    assert caught.value.code == "invalid_cursor"


@pytest.mark.parametrize("values", [["x", 1, "y"], [None, None, None], ["2026-01-15T12:00:00Z", "n", str(new_id())]])
async def test_a_cursor_of_this_list_with_other_values_is_refused(get: Get, values: list[Any]) -> None:
    from services.audit.service import SORT
    from shared.http import encode_cursor

    with pytest.raises(BadRequest) as caught:
        await get(cursor=encode_cursor(SORT, values))
    assert caught.value.code == "invalid_cursor"


async def test_an_unknown_entry_is_not_found(get: Get) -> None:
    with pytest.raises(NotFound):
        await get(f"/v1/audit/events/{new_id()}")
