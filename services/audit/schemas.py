"""Answers and list parameters of the audit operations."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel, Field, StringConstraints

from services.audit.domain import RiskLevel
from shared.http import PageParams
from shared.http.fields import Line, Moment

Action = Annotated[str, StringConstraints(max_length=100, pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*(\.\*)?$")]
Word = Annotated[str, StringConstraints(max_length=50, pattern=r"^[a-z][a-z0-9_]*$")]
ActorType = Literal["user", "api_key", "service", "system", "anonymous"]


class Actor(BaseModel):
    """Who did it."""

    type: str = Field(examples=["user"])
    id: str | None


class Target(BaseModel):
    """What it was done to."""

    type: str = Field(examples=["contact"])
    id: UUID


class Entry(BaseModel):
    """One entry of the audit log: one event of the platform."""

    id: UUID = Field(description="the event's id")
    action: str = Field(examples=["contact.updated"])
    actor: Actor
    target: Target
    occurred_at: datetime
    recorded_at: datetime
    source: str = Field(description="the service it happened in", examples=["crm"])
    risk_level: RiskLevel
    request_id: str | None = Field(description="the request that began it")
    causation_id: str | None = Field(description="the event it was a reaction to")
    trace_id: str | None
    sequence: int = Field(description="the target's version after it")
    schema_version: int = Field(description="the version of the event's schema, which 'data' follows")
    changes: dict[str, Any] | None = Field(description="each changed field's value before and after")
    data: dict[str, Any] = Field(description="what else the event carried")


class EntryQuery(PageParams):
    """Filters of the audit log; an entry must meet all of them."""

    actor_id: Annotated[Line | None, Query(description="the user's or API key's id")] = None
    actor_type: ActorType | None = None
    action: Annotated[Action | None, Query(description="'contact.created', or every action of a kind: 'contact.*'")] = (
        None
    )
    target_type: Annotated[Word | None, Query(description="'contact', 'deal', 'member', …")] = None
    target_id: UUID | None = None
    occurred_after: Annotated[Moment | None, Query(description="at this time or later")] = None
    occurred_before: Annotated[Moment | None, Query(description="before this time")] = None
    risk_level: RiskLevel | None = None
    q: Annotated[
        Line | None, Query(description="words to find in what happened; each may be a beginning; costs a unit more")
    ] = None

    @property
    def searches(self) -> bool:
        """Whether there are words to find."""
        return bool(self.q and self.q.split())
