"""JSON answers rendered once, by orjson, straight from database rows.

A handler that returns one of these skips FastAPI's second validation of rows that came from typed
columns; its ``response_model`` still documents the answer, and the contract tests hold the two together.
"""

from typing import Any

import asyncpg
import orjson
from starlette.responses import Response

_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS


def _default(value: Any) -> Any:
    if isinstance(value, asyncpg.Record):
        return dict(value.items())
    return str(value)  # asyncpg's UUID is a subclass of uuid.UUID


def dump(value: Any) -> bytes:
    """``value`` as JSON; rows become objects, times RFC 3339 in UTC."""
    return orjson.dumps(value, default=_default, option=_OPTIONS)


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An ``application/json`` answer."""
    return Response(dump(content), status, headers, media_type="application/json")
