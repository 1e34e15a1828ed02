"""Answers of record operations."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from services.crm.records.schemas import RecordQuery
from shared.http import etag, json_response, page_response


def record_response(record: Mapping[str, Any], status: int = 200, location: str | None = None) -> Response:
    """One record with its ETag, and where it was made its Location."""
    headers = {"ETag": etag(record["version"])}
    if location:
        headers["Location"] = f"{location}/{record['id']}"
    return json_response(record, status, headers)


def bulk_response(records: Sequence[Mapping[str, Any]], status: int = 200) -> Response:
    """The records of a bulk request."""
    return json_response({"data": records}, status)


def record_page(records: Sequence[Mapping[str, Any]], query: RecordQuery) -> Response:
    """A page of the records ``query`` found."""
    sort = query.sort_column
    return page_response(records, query.limit, sort, (sort.lstrip("-"), "id"), hidden=("sort_name",))
