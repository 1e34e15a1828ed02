"""Use cases of plans."""

from typing import Any

from services.ratelimit.plans import repository
from services.ratelimit.policies.service import shown
from shared.auth import Principal
from shared.db import Session


async def every(session: Session, principal: Principal, default_plan: str) -> list[dict[str, Any]]:
    """All plans with their policies, the smallest plan first."""
    plans, policies = await repository.every(session, principal.organization_id, default_plan)
    return [
        {
            **{name: plan[name] for name in ("name", "title", "description", "current")},
            "policies": [shown(row) for row in policies if row["plan"] == plan["name"]],
        }
        for plan in plans
    ]
