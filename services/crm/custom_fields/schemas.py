"""Bodies of the custom-field operations."""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, model_validator

from services.crm.custom_fields.domain import FieldType
from services.crm.records.schemas import Key, Version
from shared.http import Page, PageParams
from shared.http.fields import Input, Name, omitted


def _without_repetition(options: list[str]) -> list[str]:
    return list(dict.fromkeys(options))


RecordTypeName = Literal["contact", "company", "deal", "activity"]
Options = Annotated[list[Name], Field(max_length=100), AfterValidator(_without_repetition)]


class CustomFieldCreate(Input):
    """A new field of one kind of record."""

    record_type: RecordTypeName
    key: Key = Field(examples=["industry_segment"], description="the name in custom_fields; never changes")
    label: Name
    type: FieldType
    options: Options = Field(default_factory=list, description="the choices of a select field")

    @model_validator(mode="after")
    def _options_fit_type(self) -> Self:
        if (self.type == "select") != bool(self.options):
            raise ValueError("a select field needs options, and no other type has them")
        return self


class CustomFieldChange(Input):
    """What may change: the label people see, and the choices of a select field."""

    label: Name = omitted()
    options: Options = omitted()


class CustomField(BaseModel):
    """A field definition."""

    id: UUID
    record_type: RecordTypeName
    key: str
    label: str
    type: FieldType
    options: list[str]
    version: Version
    created_at: datetime
    updated_at: datetime


class CustomFieldPage(Page[CustomField]):
    """A page of custom fields."""


class CustomFieldQuery(PageParams):
    """Filters of the list."""

    record_type: RecordTypeName | None = None
