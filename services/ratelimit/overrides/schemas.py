"""Bodies and answers of the override operations."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Query
from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from services.ratelimit.policies.domain import LONGEST_PATTERN, pattern
from services.ratelimit.policies.schemas import Description, Force, Quota, Version
from shared.http import PageParams
from shared.http.fields import Input, Moment, omitted

SubjectPattern = Annotated[
    str,
    StringConstraints(min_length=1, max_length=LONGEST_PATTERN, pattern=r"^[^\x00-\x1f\x7f]*$"),
    AfterValidator(pattern),
    Field(
        description="the subjects it is for: organization, or what per makes, such as key:<id>|route:<method> <path>; * is "
        "anything. Of several that fit the longest counts",
        examples=["key:0198c5a0-0000-7000-8000-000000000031"],
    ),
]
Expiry = Annotated[Moment | None, Field(description="the policy's own quota counts again from then on; null: never")]


class LimitOverrideCreate(Input):
    """Another quota for some subjects of a policy."""

    pattern: SubjectPattern
    quota: Quota
    note: Description = ""
    expires_at: Expiry = None
    force: Force = False


class LimitOverrideChange(Input):
    """What to change; a field that is left out keeps its value."""

    pattern: SubjectPattern = omitted()
    quota: Quota = omitted()
    note: Description = omitted()
    expires_at: Expiry = omitted()
    force: Force = False


class LimitOverride(BaseModel):
    """Another quota for the subjects of a policy that fit a pattern."""

    id: UUID
    policy_id: UUID
    pattern: str
    quota: int
    note: str
    expires_at: datetime | None
    version: Version
    created_at: datetime
    updated_at: datetime


class LimitOverrideQuery(PageParams):
    """Parameters of the list."""


class LimitOverrideRemoval(BaseModel):
    """Parameters of the removal."""

    force: Annotated[
        bool, Query(description="remove it even when your own calls to this API would be refused then")
    ] = False
