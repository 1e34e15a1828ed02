"""Answers of the plan operations."""

from pydantic import BaseModel, Field

from services.ratelimit.policies.schemas import LimitPolicy


class Plan(BaseModel):
    """A plan with its policies."""

    name: str = Field(examples=["pro"])
    title: str
    description: str
    current: bool = Field(description="whether it is your organisation's; whoever runs the platform changes that")
    policies: list[LimitPolicy]


class PlanList(BaseModel):
    """All plans, the smallest first."""

    data: list[Plan]
