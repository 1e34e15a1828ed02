"""Fields, list parameters and bulk bodies that every record has."""

from collections.abc import Sequence
from datetime import datetime
from math import isfinite
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel, Field, PlainValidator, StringConstraints, field_validator

from services.crm.records.domain import MAX_CUSTOM_FIELDS
from shared.http import PageParams
from shared.http.fields import Input, Line, Moment, Tag, omitted

MAX_BULK = 200
_MAX_TEXT = 2000
_MAX_INTEGER = 2**53 - 1
_CONTROL = frozenset(map(chr, [*range(32), 127])) - set("\t\n\r")


def _custom_value(value: Any) -> Any:
    if isinstance(value, str):
        if len(value) > _MAX_TEXT or not _CONTROL.isdisjoint(value):
            raise ValueError(f"must have at most {_MAX_TEXT} characters and no control characters")
    elif isinstance(value, int) and abs(value) > _MAX_INTEGER:
        # Most JSON readers hold numbers as doubles and would round it without a word.
        raise ValueError(f"must lie between -{_MAX_INTEGER} and {_MAX_INTEGER}; use text for a longer number")
    elif isinstance(value, float) and not isfinite(value):
        raise ValueError("must be a finite number")
    elif not isinstance(value, int | float | None):
        raise ValueError("must be text, a number, true, false or null")
    return value


Key = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,49}$")]
Tags = Annotated[list[Tag], Field(max_length=50)]
CustomValue = Annotated[
    bool | int | float | str | None,
    PlainValidator(
        _custom_value,
        json_schema_input_type=bool
        | Annotated[int, Field(ge=-_MAX_INTEGER, le=_MAX_INTEGER)]
        | float
        | Annotated[str, StringConstraints(max_length=_MAX_TEXT)]
        | None,
    ),
]
CustomFields = Annotated[dict[Key, CustomValue], Field(max_length=MAX_CUSTOM_FIELDS)]
Version = Annotated[int, Field(description="counts the record's changes; its ETag")]

Item = TypeVar("Item")


class RecordInput(Input):
    """What a caller may set on any record."""

    owner_id: UUID | None = Field(None, description="the user who looks after it; the signed-in caller when left out")
    tags: Tags = Field(default_factory=list)
    custom_fields: CustomFields = Field(default_factory=dict)


class RecordChange(Input):
    """What a caller may change on any record; a field that is left out keeps its value."""

    owner_id: UUID | None = omitted()
    tags: Tags = omitted()
    custom_fields: CustomFields = Field(default_factory=dict, description="merged; null removes a field")

    def wanted(self) -> dict[str, Any]:
        """The fields that were sent."""
        return self.model_dump(exclude_unset=True, exclude={"id"})


class RecordOutput(BaseModel):
    """What every record shows."""

    id: UUID
    owner_id: UUID | None
    tags: list[str]
    custom_fields: dict[str, Any]
    version: Version
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None


class RecordQuery(PageParams):
    """Filters of every list."""

    q: Annotated[Line | None, Query(description="words to find, each from its beginning")] = None
    owner_id: UUID | None = None
    tag: Annotated[Tag | None, Query(description="records that carry this tag")] = None
    custom_field: Annotated[
        str | None,
        Query(pattern=r"^[a-z][a-z0-9_]{0,49}:[^\x00]{0,200}$", description="'key:value' of a custom field"),
    ] = None
    created_after: Annotated[Moment | None, Query(description="made at this time or later")] = None
    created_before: Annotated[Moment | None, Query(description="made before this time")] = None
    updated_after: Annotated[Moment | None, Query(description="changed at this time or later")] = None
    deleted: Annotated[bool, Query(description="list the deleted records instead")] = False
    sort: str = "-created_at"

    @property
    def sort_column(self) -> str:
        """``sort`` with the column's name instead of the public one."""
        return self.sort.replace("name", "sort_name")


class BulkItem(RecordChange):
    """One change of a bulk update."""

    id: UUID


class BulkCreate(Input, Generic[Item]):
    """Several records made at once: all of them or none."""

    items: list[Item] = Field(min_length=1, max_length=MAX_BULK)


BulkChange = TypeVar("BulkChange", bound=BulkItem)


class BulkUpdate(Input, Generic[BulkChange]):
    """Several changes at once, each of another record: all of them or none."""

    items: list[BulkChange] = Field(min_length=1, max_length=MAX_BULK)

    @field_validator("items")
    @classmethod
    def _each_record_once(cls, items: Sequence[BulkChange]) -> Sequence[BulkChange]:
        if len({item.id for item in items}) < len(items):
            raise ValueError("each record may be changed once in a request")
        return items


class BulkResult(BaseModel, Generic[Item]):
    """The records of a bulk request, in the request's order."""

    data: list[Item]
