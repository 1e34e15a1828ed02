"""Answers and list parameters of the usage operations."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel, Field

from services.ratelimit.usage.domain import Grouping, Interval
from shared.http import PageParams
from shared.http.fields import Line, Moment
from shared.limits.policies import RouteClass


class Usage(BaseModel):
    """What was called in one interval by one key, user, route or class; it has the field it is grouped by."""

    start: datetime = Field(description="when the interval begins; those at the edges may lie in the span in part only")
    key: UUID | None = Field(None, description="null: calls made in sessions")
    user: UUID | None = Field(None, description="whoever called, or made the key; null: nobody that is known")
    route: str | None = Field(None, examples=["GET /v1/contacts/{contact_id}"])
    route_class: str | None = Field(None, alias="class", examples=["read"])
    calls: int = Field(description="admitted and refused ones")
    refused: int = Field(description="of the calls, those a limit refused")
    cost: int = Field(description="units that the admitted calls took")
    shadow_refused: int = Field(description="of the calls, those a limit in shadow mode would have refused")


class UsageQuery(PageParams):
    """Which usage, and how it is added up."""

    begin: Annotated[Moment | None, Query(description="default: an hour before 'to'")] = Field(None, alias="from")
    end: Annotated[Moment | None, Query(description="default: now; at most 35 days after 'from'")] = Field(
        None, alias="to"
    )
    group_by: Grouping = "key"
    interval: Annotated[Interval, Query(description="of UTC; minute for spans of up to a day")] = "hour"
    key: Annotated[UUID | None, Query(description="only of this API key")] = None
    user: Annotated[UUID | None, Query(description="only of this person's sessions and of the keys they made")] = None
    route: Annotated[Line | None, Query(description="only of this operation: GET /v1/contacts")] = None
    route_class: Annotated[RouteClass | None, Query(description="only of this class")] = Field(None, alias="class")
