"""Body and answer of the simulation."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, Field

from services.ratelimit.overrides.schemas import SubjectPattern
from services.ratelimit.policies.schemas import LimitPolicyCreate, Quota
from shared.http.fields import Input, Moment


class SimulatedOverride(Input):
    """Another quota for the subjects that fit a pattern."""

    pattern: SubjectPattern
    quota: Quota


class LimitSimulationRequest(Input):
    """A policy, and the span of usage to try it on."""

    policy: LimitPolicyCreate
    begin: Moment | None = Field(None, alias="from", description="default: a day before 'to'; counting starts here")
    end: Moment | None = Field(None, alias="to", description="default: now; at most 35 days after 'from'")
    overrides: list[SimulatedOverride] = Field([], max_length=100)


class SimulatedTotals(BaseModel):
    """All subjects together; calls that the policy is not for are left out."""

    calls: int
    cost: int = Field(description="units that all these calls would take")
    refused: int
    refused_cost: int
    subjects: int
    refused_subjects: int = Field(description="of the subjects, those with a refused call")


class SimulatedSubject(BaseModel):
    """What the policy would have done to one subject."""

    subject: str = Field(examples=["key:0198c5a0-0000-7000-8000-000000000031"])
    key: UUID | None = Field(description="where the policy counts by key")
    user: UUID | None = Field(description="where the policy counts by user")
    quota: int
    calls: int
    cost: int
    refused: int
    refused_cost: int
    first_refused_at: datetime | None = Field(description="the minute")
    last_refused_at: datetime | None
    windows_hit: int = Field(description="windows with a refused call")
    peak: int = Field(description="units wanted in the fullest window")
    suggested_quota: int = Field(description="the smallest quota that would have refused it nothing")


class SimulatedBucket(BaseModel):
    """A piece of the span, for a chart."""

    start: datetime
    calls: int
    refused: int


class LimitSimulation(BaseModel):
    """What the policy would have refused; nothing was saved."""

    start: datetime
    end: datetime
    totals: SimulatedTotals
    subjects: list[SimulatedSubject] = Field(description="at most 100, those with most refused calls first")
    series: list[SimulatedBucket] = Field(
        description="the pieces of the span in which calls would have been refused, in order; others are left out"
    )
    bucket_seconds: int = Field(description="how long a piece of the series is")
    resolution: Literal["minute"] = Field(description="usage is kept by minute")
    estimate: bool = Field(description="true where the windows are shorter than that")
    notes: list[str] = Field(description="what the figures rest on, in words")
