"""Keyset pages: ``{data, has_more, next_cursor}``; a cursor holds the last row's sort values."""

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

import orjson
from fastapi import Query
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from shared.errors import BadRequest
from shared.http.responses import json_response

Item = TypeVar("Item")
MAX_LIMIT = 200
MAX_CURSOR = 4096
_CHECKSUM_BYTES = 4
_LARGEST = 2**63 - 1


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    data: list[Item]
    has_more: bool
    next_cursor: str | None


class PageParams(BaseModel):
    """``?limit=&cursor=`` of every list."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="rows in a page; more than 100 cost a unit more")] = 50
    cursor: Annotated[str | None, Query(max_length=MAX_CURSOR, description="next_cursor of the page before")] = None


def encode_cursor(sort: str, values: Sequence[Any]) -> str:
    """An opaque cursor behind the row with these sort values; ``sort`` guards against another order.

    The checksum finds a cursor that was cut or mistyped. It keeps nobody from making one: a cursor grants
    nothing, it only says where to go on in a list that is filtered and authorised anyway.
    """
    payload = orjson.dumps([sort, *values], default=str)
    return urlsafe_b64encode(_checksum(payload) + payload).decode().rstrip("=")


def _checksum(payload: bytes) -> bytes:
    return zlib.crc32(payload).to_bytes(_CHECKSUM_BYTES)


def decode_cursor(cursor: str, sort: str, count: int) -> list[Any]:
    """The ``count`` sort values of a cursor; raises ``BadRequest`` (``invalid_cursor``) for any other text."""
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        found, *values = orjson.loads(raw[_CHECKSUM_BYTES:])
    except (ValueError, TypeError):
        raise _invalid_cursor() from None
    # Base64 has several spellings of the same bytes; only the one we wrote is taken.
    written = found == sort and len(values) == count and encode_cursor(sort, values) == cursor
    if not written:
        raise _invalid_cursor()
    return list(values)


def _invalid_cursor() -> BadRequest:
    return BadRequest(
        "The cursor does not belong to this list; start again without one.",
        code="invalid_cursor",
        errors=[{"field": "cursor", "code": "invalid_cursor", "message": "not a cursor of this list"}],
    )


def decode_name_cursor(cursor: str, sort: str) -> tuple[str, UUID]:
    """The text and id of a cursor over ``(text, id)``; raises ``BadRequest`` (``invalid_cursor``)."""
    name, identifier = decode_cursor(cursor, sort, 2)
    if not isinstance(name, str) or "\x00" in name:
        raise _invalid_cursor()
    return name, _identifier(identifier)


def decode_number_cursor(cursor: str, sort: str) -> tuple[int, UUID]:
    """The number and id of a cursor over ``(bigint, id)``; raises ``BadRequest`` (``invalid_cursor``)."""
    number, identifier = decode_cursor(cursor, sort, 2)
    if type(number) is not int or abs(number) > _LARGEST:
        raise _invalid_cursor()
    return number, _identifier(identifier)


def decode_moment_cursor(cursor: str, sort: str) -> tuple[datetime, UUID]:
    """The time and id of a cursor over ``(time, id)``; raises ``BadRequest`` (``invalid_cursor``)."""
    text, identifier = decode_cursor(cursor, sort, 2)
    try:
        moment = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        raise _invalid_cursor() from None
    if moment.utcoffset() is None or not 1 < moment.year < 9999:
        raise _invalid_cursor()
    return moment, _identifier(identifier)


def _identifier(text: Any) -> UUID:
    try:
        return UUID(text)
    except (ValueError, TypeError, AttributeError):
        raise _invalid_cursor() from None


def page_response(
    rows: Sequence[Mapping[str, Any]], limit: int, sort: str, keys: Sequence[str], hidden: Sequence[str] = ()
) -> Response:
    """Render up to ``limit`` of ``rows`` (the query asked for one more) with the cursor behind the last.

    ``keys`` are the columns of the sort order; those in ``hidden`` serve the cursor and are not shown.
    """
    has_more = len(rows) > limit
    shown: Sequence[Any] = rows[:limit]
    cursor = encode_cursor(sort, [shown[-1][key] for key in keys]) if has_more else None
    if not set(hidden).isdisjoint(keys):
        shown = [{name: value for name, value in row.items() if name not in hidden} for row in shown]
    return json_response({"data": shown, "has_more": has_more, "next_cursor": cursor})
