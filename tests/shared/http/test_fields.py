"""Field types of input models."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from shared.http.fields import Email, Input, Line, LongText, Moment, Name, Tag, omitted

CONTROLS = [chr(code) for code in [*range(32), 127]]


def fits(kind: Any, value: Any) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


# What Python takes for white space and Unicode does not is left out here; the next test has it.
@given(st.text(st.characters(exclude_characters="\x1c\x1d\x1e\x1f", exclude_categories=["Cs"]), max_size=220))
def test_a_line_has_no_control_characters_and_an_end(text: str) -> None:
    stripped = text.strip()
    expected = len(stripped) <= 200 and not any(character in CONTROLS for character in stripped)
    assert fits(Line, text) is expected
    assert fits(Name, text) is (expected and stripped != "")


@pytest.mark.parametrize("control", CONTROLS)
def test_text_of_several_lines_has_line_ends_and_tabs_alone(control: str) -> None:
    assert fits(LongText, f"a{control}b") is (control in "\n\r\t")
    assert not fits(Line, f"a{control}b")
    assert not fits(Tag, f"a{control}b")


@pytest.mark.parametrize("value", ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456+05:30", "2026-01-01 00:00:00z"])
def test_a_moment_is_kept_in_utc(value: str) -> None:
    moment = TypeAdapter(Moment).validate_python(value)
    assert moment.tzinfo is UTC


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-01",
        "2026-01-01T00:00:00",
        "1700000000",
        1_700_000_000,
        1.5,
        True,
        None,
        "",
        "soon",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "1899-12-31T23:59:59Z",
        "2200-01-01T00:00:00Z",
        datetime(2026, 1, 1),  # noqa: DTZ001
    ],
)
def test_anything_else_is_no_moment(value: Any) -> None:
    assert not fits(Moment, value)


@pytest.mark.parametrize(
    ("value", "good"), [("Ada@Example.com ", True), ("a@b", False), ("a b@c.d", False), ("@c.d", False)]
)
def test_an_address_is_lower_case(value: str, good: bool) -> None:
    assert fits(Email, value) is good
    if good:
        assert TypeAdapter(Email).validate_python(value) == "ada@example.com"


class Change(Input):
    name: Name = omitted()


def test_a_field_left_out_is_neither_set_nor_a_default() -> None:
    assert Change().model_dump(exclude_unset=True) == {}
    assert "default" not in Change.model_json_schema()["properties"]["name"]
    assert "required" not in Change.model_json_schema()
    for wrong in ({"name": None}, {"other": 1}):
        assert not fits(Change, wrong)
