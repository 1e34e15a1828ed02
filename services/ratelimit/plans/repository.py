"""Storage of plans; who is on which is read here, and written by whoever runs the platform."""

from typing import Any
from uuid import UUID

from sqlalchemy import select

from services.ratelimit.models import plan_policies, plans
from services.ratelimit.policies.repository import OF_PLANS, THEIR_PLAN
from shared.db import Record, Session

_PLANS = select(plans, (plans.c.name == THEIR_PLAN).label("current")).order_by(plans.c.position, plans.c.name)
_POLICIES = select(*OF_PLANS).order_by(plan_policies.c.name)


async def every(session: Session, organization_id: UUID, default_plan: str) -> tuple[list[Record], list[Record]]:
    """All plans, the organisation's own marked as ``current``, and the policies of all of them."""
    params: dict[str, Any] = {"organization_id": organization_id, "default_plan": default_plan}
    return await session.fetch(_PLANS, **params), await session.fetch(_POLICIES)
