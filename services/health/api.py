"""``/v1/health``."""

from typing import Any

from fastapi import Request
from starlette.responses import Response

from services.health.schemas import Health
from services.health.service import Monitor
from shared.http import PROBLEM_RESPONSES, PrincipalDep, json_response, service_router

DETAILS_SCOPE = "health:read"
router = service_router("health", "/v1/health")
# A platform that is down has the same document; the gateway answers with a problem when health is not there.
_UNAVAILABLE: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "The platform is down",
        "model": Health,
        "content": PROBLEM_RESPONSES[503]["content"],
    }
}


@router.get("", response_model=Health, responses=_UNAVAILABLE)
async def get_health(principal: PrincipalDep, request: Request) -> Response:
    """How the platform is doing: the whole for everybody, every part for holders of the scope health:read."""
    monitor: Monitor = request.app.state.monitor
    report = await monitor.report()
    shown = report.model_dump(mode="json")
    if DETAILS_SCOPE not in principal.scopes:
        shown["details"] = None
        if report.action:
            shown["action"] = f"Ask with a key that has the scope {DETAILS_SCOPE}: it shows each part, and what to do."
    headers = {"Cache-Control": "no-store"}
    if report.status == "down":
        return json_response(shown, 503, {**headers, "Retry-After": "5"})
    return json_response(shown, headers=headers)
