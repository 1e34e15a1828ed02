"""Answers and parameters of ``/v1/limits``."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel, Field

from shared.http import PageParams
from shared.http.fields import Line
from shared.limits.policies import Mode, Unit, Window


class Limit(BaseModel):
    """What one subject of a policy has used of its present window."""

    policy_id: UUID
    policy: str = Field(description="the policy's name", examples=["minute"])
    plan: str | None = Field(description="the plan the policy comes with; null for one of your own")
    unit: Unit
    window: Window | None
    mode: Mode
    shadow: bool = Field(description="nothing is refused, only counted")
    subject: str | None = Field(
        description="what is counted together, such as organization or key:<id>; null while nobody was counted in this "
        "window",
        examples=["organization"],
    )
    quota: int = Field(description="of this subject: its override's, or the policy's own")
    used: int = Field(
        description="debited: what processes hold to spend and what they have spent. It is what the quota is held to, and "
        "falls again by what they give back. For concurrent-requests, the places that processes hold for calls"
    )
    admitted: int | None = Field(
        description="what processes have reported as spent, a moment behind; never more than used. null for "
        "concurrent-requests"
    )
    remaining: int = Field(description="quota less used")
    utilisation: float = Field(
        description="used of the quota; over 1 where a fast policy was passed or a quota lowered, 1 where the quota is 0"
    )
    window_start: datetime | None
    resets_at: datetime | None = Field(description="when the next window begins; null for concurrent-requests")


class LimitQuery(PageParams):
    """Filters of the limits in effect."""

    policy_id: UUID | None = None
    subject: Annotated[Line | None, Query(description="exactly this subject, such as key:<id>")] = None
