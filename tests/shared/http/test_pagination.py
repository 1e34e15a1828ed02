"""Cursors."""

import contextlib
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import BadRequest
from shared.http.pagination import (
    decode_cursor,
    decode_moment_cursor,
    decode_name_cursor,
    decode_number_cursor,
    encode_cursor,
)

NAMES = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=50)
MOMENTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 (bounds are naive)


@given(NAMES, st.uuids())
def test_a_name_comes_back(name: str, identifier: UUID) -> None:
    assert decode_name_cursor(encode_cursor("-name", [name, identifier]), "-name") == (name, identifier)


@given(st.integers(-(2**63) + 1, 2**63 - 1), st.uuids())
def test_a_number_comes_back(number: int, identifier: UUID) -> None:
    assert decode_number_cursor(encode_cursor("amount", [number, identifier]), "amount") == (number, identifier)


@given(MOMENTS, st.uuids())
def test_a_time_comes_back_to_the_microsecond(moment: datetime, identifier: UUID) -> None:
    assert decode_moment_cursor(encode_cursor("-at", [moment, identifier]), "-at") == (moment, identifier)


@given(st.text(max_size=200) | st.binary(max_size=60).map(bytes.hex))
def test_any_other_text_is_refused(text: str) -> None:
    for decode in (decode_name_cursor, decode_number_cursor, decode_moment_cursor):
        with pytest.raises(BadRequest) as caught:
            decode(text, "name")
        assert caught.value.code == "invalid_cursor"


@given(
    st.lists(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | NAMES, max_size=3
    )
)
def test_values_of_another_kind_are_refused_or_of_the_right_one(values: list[Any]) -> None:
    cursor = encode_cursor("x", values)
    for decode in (decode_name_cursor, decode_number_cursor, decode_moment_cursor):
        with contextlib.suppress(BadRequest):
            value, identifier = decode(cursor, "x")
            assert isinstance(value, str | int | datetime)
            assert isinstance(identifier, UUID)


def test_a_cursor_belongs_to_one_order() -> None:
    cursor = encode_cursor("name", ["a", "b"])
    assert decode_cursor(cursor, "name", 2) == ["a", "b"]
    for sort, count in (("-name", 2), ("name", 1), ("name", 3)):
        with pytest.raises(BadRequest):
            decode_cursor(cursor, sort, count)
