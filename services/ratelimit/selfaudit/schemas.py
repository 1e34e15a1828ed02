"""Answers and list parameters of the audit of limits."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel, Field

from shared.http import PageParams


class AuditedWindow(BaseModel):
    """A window that ended."""

    policy_id: UUID
    policy: str | None = Field(description="its name, also after it was deleted; null for one that is not known")
    mode: str | None = Field(description="fast where it was that at any time of the window")
    shadow: bool = Field(description="nothing was refused, at some time of the window at least")
    epoch: int
    subject: str
    window_start: datetime
    window_end: datetime
    quota: int = Field(description="the quota at the end")
    highest_quota: int = Field(description="the highest it was in this window")
    used: int = Field(description="units that were handed out to be spent")
    admitted: int = Field(description="units of calls that were let through")
    stranded: int = Field(description="handed out and never spent: with processes that died, or answers that were lost")
    overshoot: int = Field(description="admitted beyond the highest quota; 0 where it was in shadow")


class LimitAuditQuery(PageParams):
    """Parameters of the list."""

    policy_id: Annotated[UUID | None, Query(description="only of this policy")] = None
