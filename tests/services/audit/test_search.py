"""What an entry is found by: whole ids, texts and numbers; and entries of the release before."""

from typing import Any

import pytest

from services.audit import service
from services.audit.search import LONGEST_TEXT, prefix_query, words_of
from shared import clock
from shared.auth import Principal
from shared.db import Database
from shared.ids import new_id
from tests.services.audit.conftest import Get
from tests.services.audit.support import TRACE_ID, make_event, record

ID = "0198c5a0-1111-7222-8333-00000000000a"


def words(data: dict[str, Any], **fields: Any) -> list[str]:
    event = make_event(new_id(), "deal.stage_changed", data=data, **fields)
    found = words_of(service.entry_of(event, clock.now())).split()
    assert event.subject.hex in found
    return found


def test_ids_are_one_word_and_moments_none() -> None:
    found = words({"owner_id": ID, "closed_at": "2026-01-15T12:00:00Z", "due": "2026-01-15"}, correlationid=ID)
    assert found.count(ID.replace("-", "")) == 2
    assert "2026-01-15" in found
    assert not [word for word in found if "T12" in word]


def test_texts_and_numbers_are_found_wherever_they_are() -> None:
    data = {"changes": {"tags": {"before": None, "after": ["vip", 7]}}, "deep": [{"won": True, "name": "Ada <b>x"}]}
    found = words(data, traceparent=f"00-{TRACE_ID}-00f067aa0ba902b7-01")
    assert {"deal.stage_changed", "deal", "stage", "changed", "vip", "7", "Ada", "b>x", TRACE_ID} <= set(found)
    assert not {"True", "None", "tags", "won"} & set(found)


def test_a_very_long_text_is_cut() -> None:
    event = make_event(new_id(), data={"note": "word " * LONGEST_TEXT})
    assert len(words_of(service.entry_of(event, clock.now()))) == LONGEST_TEXT


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("ada", "'ada':*"),
        ("ada o'neill", "'ada':* & 'o''neill':*"),
        (ID, f"('{ID.replace('-', '')}':* | '{ID}':*)"),
        ("0198c5a0-11", "('0198c5a011':* | '0198c5a0-11':*)"),
        ("anne-marie", "'anne-marie':*"),
    ],
)
def test_a_query_asks_for_beginnings(text: str, query: str) -> None:
    assert prefix_query(text) == query


@pytest.mark.parametrize("q", [ID, ID.upper(), ID[:13], ID.replace("-", ""), TRACE_ID[:20], "o'neill", "42", "anne"])
async def test_an_entry_is_found_by_its_words(audit: Database, get: Get, reader: Principal, q: str) -> None:
    event = make_event(
        reader.organization_id, data={"owner_id": ID, "name": "O'Neill", "count": 42, "first": "Anne-Marie"},
        traceparent=f"00-{TRACE_ID}-00f067aa0ba902b7-01",
    )  # fmt: skip
    await record(audit, event, make_event(reader.organization_id, authid="nobody"))
    assert [entry["id"] for entry in (await get(q=q))["data"]] == [str(event.id)]


async def test_the_release_before_can_still_record(audit: Database, get: Get, reader: Principal) -> None:
    event = make_event(reader.organization_id, data={"name": "Zanzibar", "owner_id": ID})
    entry = service.entry_of(event, clock.now())
    names = [name for name in entry if name != "changes"]
    await record(audit, make_event(reader.organization_id))  # makes the month's partition
    async with audit.transaction(reader.organization_id) as session:
        await session.connection.execute(
            f"INSERT INTO audit_logs_enhanced (organization_id, {', '.join(names)}) "
            f"SELECT $1, {', '.join(f'${number}' for number in range(2, len(names) + 2))}",
            reader.organization_id,
            *(entry[name] for name in names),
        )
    for q in ("zanz", ID, str(event.subject)):
        assert [found["id"] for found in (await get(q=q))["data"]] == [str(event.id)], q
