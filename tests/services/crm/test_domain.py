"""The CRM's rules, tried with whatever hypothesis thinks of."""

from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.crm.contacts.domain import require_identifiable
from services.crm.custom_fields.domain import problem_with
from services.crm.deals.domain import placed
from services.crm.pipelines import domain as pipelines
from services.crm.records import domain
from services.crm.records.repository import prefix_query, words
from services.crm.records.schemas import RecordInput
from shared.errors import NotFound, ValidationFailed

JSON = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
FIELDS = st.dictionaries(KEYS, JSON, max_size=8)
NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


@given(st.lists(st.text(max_size=3)))
def test_tags_are_kept_once_in_their_order(tags: list[str]) -> None:
    kept = domain.unique_tags(tags)
    assert len(kept) == len(set(kept))
    assert set(kept) == set(tags)
    assert kept == sorted(kept, key=tags.index)


@given(FIELDS, FIELDS)
def test_merging_custom_fields(before: dict[str, Any], wanted: dict[str, Any]) -> None:
    before = domain.merged_custom_fields({}, before)
    merged = domain.merged_custom_fields(before, wanted)
    assert None not in merged.values()
    assert domain.merged_custom_fields(merged, wanted) == merged
    assert {key: merged.get(key) for key in wanted} == wanted
    untouched = set(before) - set(wanted)
    assert {key: merged[key] for key in untouched} == {key: before[key] for key in untouched}


@given(FIELDS, FIELDS)
def test_differences_are_what_is_needed_to_get_there(before: dict[str, Any], wanted: dict[str, Any]) -> None:
    present = {**dict.fromkeys(wanted), **before}
    changed = domain.differences(present, wanted)
    assert {**present, **changed} == {**present, **wanted}
    assert domain.differences({**present, **changed}, wanted) == {}
    for name, change in domain.changes(present, changed).items():
        assert change == {"before": present[name], "after": wanted[name]}


@pytest.mark.parametrize(
    ("before", "after"), [({"x": 1}, {"x": True}), ({"x": 1}, {"x": 1.0}), ({"x": 0}, {"x": False})]
)
def test_custom_values_of_another_type_are_different(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert domain.differences({"custom_fields": before}, {"custom_fields": after}) == {"custom_fields": after}


def test_changes_are_plain_json() -> None:
    before = {"company_id": None, "occurred_at": NOW, "tags": ["a"]}
    changed: dict[str, Any] = {"company_id": UUID(int=1), "occurred_at": None, "tags": []}
    assert orjson.loads(orjson.dumps(domain.changes(before, changed))) == {
        "company_id": {"before": None, "after": str(UUID(int=1))},
        "occurred_at": {"before": "2026-01-15T12:00:00+00:00", "after": None},
        "tags": {"before": ["a"], "after": []},
    }


def test_a_problem_of_an_item_says_which() -> None:
    failed = ValidationFailed(errors=[{"field": "/email", "code": "x", "message": "y"}])
    assert [each["field"] for each in domain.at_item(failed, 3).errors] == ["/items/3/email"]
    assert domain.at_item(NotFound("gone"), 4).errors == [{"field": "/items/4", "code": "not_found", "message": "gone"}]


@given(JSON)
def test_a_custom_field_takes_values_of_its_type_alone(value: Any) -> None:
    expected = {
        "text": isinstance(value, str),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "boolean": isinstance(value, bool),
    }
    for kind, fits in expected.items():
        problem = problem_with({"type": kind, "options": []}, value)
        assert (problem is None) is (fits or value is None)
    assert (problem_with(None, value) is None) is (value is None)


@given(st.dates())
def test_a_date_field_takes_every_date(value: date) -> None:
    definition = {"type": "date", "options": []}
    assert problem_with(definition, value.isoformat()) is None
    assert problem_with(definition, f"{value.isoformat()}T00:00:00Z") is not None


@given(st.text(max_size=200))
def test_any_search_text_makes_a_query(text: str) -> None:
    parts = words(text)
    assert all(part.strip() for part in parts)
    query = prefix_query(text)
    assert query.count(":*") >= len(parts)
    assert (query == "") is (parts == [])


@given(FIELDS)
def test_every_json_scalar_is_a_custom_value(values: dict[str, Any]) -> None:
    printable = {key: value for key, value in values.items() if not isinstance(value, str) or value.isprintable()}
    parsed = RecordInput.model_validate({"custom_fields": printable}).custom_fields
    assert [(key, type(value)) for key, value in parsed.items()] == [
        (key, type(value)) for key, value in printable.items()
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, -(2**53), [1], {"a": 1}, "\x00", "x" * 2001])
def test_anything_else_is_none(value: Any) -> None:
    with pytest.raises(ValueError, match=r"custom_fields\.key"):
        RecordInput.model_validate({"custom_fields": {"key": value}})


NAMES = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=6, unique_by=str.casefold)
PROBABILITIES = st.integers(0, 100) | st.none()


@given(NAMES, st.data())
def test_stages_get_a_place_and_an_id(names: list[str], data: st.DataObject) -> None:
    wanted = [
        {"name": name, "kind": data.draw(st.sampled_from(["open", "won", "lost"])), "probability": None}
        for name in names
    ]
    wanted[data.draw(st.integers(0, len(names) - 1))]["kind"] = "open"
    stages = pipelines.numbered(wanted)
    assert [stage["position"] for stage in stages] == list(range(len(names)))
    assert len({stage["id"] for stage in stages}) == len(names)
    assert all(stage["probability"] == {"won": 100, "lost": 0, "open": 0}[stage["kind"]] for stage in stages)
    again = pipelines.numbered(stages, stages)
    assert again == stages
    assert pipelines.touched(stages, again) == set()
    assert pipelines.touched(stages, stages[1:]) == {stages[0]["id"]}


@given(PROBABILITIES, PROBABILITIES)
def test_a_stage_keeps_its_probability_unless_one_is_given(before: int | None, given_one: int | None) -> None:
    (stage,) = pipelines.numbered([{"name": "A", "kind": "open", "probability": before}])
    (after,) = pipelines.numbered([{**stage, "probability": given_one}], [stage])
    assert after["probability"] == ((before or 0) if given_one is None else given_one)


@pytest.mark.parametrize(("kind", "closed"), [("open", None), ("won", NOW), ("lost", NOW)])
def test_a_stage_makes_the_status(kind: str, closed: datetime | None) -> None:
    fields = placed({"id": UUID(int=1), "pipeline_id": UUID(int=2), "kind": kind}, NOW)
    assert (fields["status"], fields["closed_at"], fields["stage_changed_at"]) == (kind, closed, NOW)


@given(st.text(max_size=3), st.text(max_size=3), st.none() | st.text(max_size=3))
def test_who_can_be_told_from_another(first: str, last: str, email: str | None) -> None:
    contact = {"first_name": first, "last_name": last, "email": email}
    if first or last or email:
        require_identifiable(contact)
    else:
        with pytest.raises(ValidationFailed):
            require_identifiable(contact)
