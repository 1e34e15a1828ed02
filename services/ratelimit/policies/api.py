"""``/v1/limits/policies``."""

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request
from starlette.responses import Response

from services.ratelimit.policies import service
from services.ratelimit.policies.schemas import (
    LimitPolicy,
    LimitPolicyChange,
    LimitPolicyCreate,
    LimitPolicyHistoryEntry,
    LimitPolicyHistoryQuery,
    LimitPolicyQuery,
)
from services.ratelimit.web import CurrentEditor, DefaultPlan
from shared.auth import Principal
from shared.http import (
    Page,
    RequestSession,
    check_if_match,
    etag,
    json_response,
    not_modified,
    page_response,
    requires,
    service_router,
)
from shared.http.rates import rated

router = service_router("limits", "/v1/limits/policies")
Reader = Annotated[Principal, requires("limits:read")]
Writer = Annotated[Principal, requires("limits:write")]
administers = rated(route_class="admin")


@router.get("", response_model=Page[LimitPolicy])
async def list_limit_policies(
    principal: Reader, session: RequestSession, plan: DefaultPlan, query: Annotated[LimitPolicyQuery, Query()]
) -> Response:
    """The limits of the organisation: first those of its plan, then its own, each by name."""
    rows = await service.page(session, principal, plan, query)
    return page_response(rows, query.limit, service.SORT, ("position", "id"), hidden=("position",))


@router.post("", status_code=201, response_model=LimitPolicy)
@administers
async def create_limit_policy(
    _principal: Writer, session: RequestSession, editor: CurrentEditor, body: LimitPolicyCreate
) -> Response:
    """Set a limit; it takes effect everywhere within a second.

    One that would soon refuse your own calls to change it again is refused with `would_refuse_you`, unless `force` is set.
    """
    row = await service.create(session, editor, body)
    return _answer(row, 201, {"Location": f"/v1/limits/policies/{row['id']}"})


@router.get("/{policy_id}", response_model=LimitPolicy)
async def get_limit_policy(
    principal: Reader, session: RequestSession, plan: DefaultPlan, request: Request, policy_id: UUID
) -> Response:
    """One policy, of the organisation or of its plan."""
    row = await service.get(session, principal, policy_id, plan)
    return not_modified(request, row["version"]) or _answer(row)


@router.patch("/{policy_id}", response_model=LimitPolicy)
@administers
async def update_limit_policy(
    _principal: Writer,
    session: RequestSession,
    editor: CurrentEditor,
    request: Request,
    policy_id: UUID,
    body: LimitPolicyChange,
) -> Response:
    """Change a limit; it takes effect everywhere within a second, in the middle of a window, too."""
    before = await service.lock(session, editor, policy_id)
    check_if_match(request, before["version"])
    return _answer(await service.change(session, editor, before, body))


@router.delete("/{policy_id}", status_code=204)
@administers
async def delete_limit_policy(
    principal: Writer, session: RequestSession, editor: CurrentEditor, request: Request, policy_id: UUID
) -> Response:
    """Delete a limit and its overrides; its history stays."""
    before = await service.lock(session, editor, policy_id)
    check_if_match(request, before["version"])
    await service.delete(session, principal, before)
    return Response(status_code=204)


@router.post("/{policy_id}/reset", response_model=LimitPolicy)
@administers
async def reset_limit_policy(
    principal: Writer, session: RequestSession, editor: CurrentEditor, request: Request, policy_id: UUID
) -> Response:
    """Forget what was counted: every subject has the whole quota of the present window again."""
    before = await service.lock(session, editor, policy_id)
    check_if_match(request, before["version"])
    return _answer(await service.reset(session, principal, before))


@router.get("/{policy_id}/history", response_model=Page[LimitPolicyHistoryEntry])
async def list_limit_policy_history(
    principal: Reader,
    session: RequestSession,
    plan: DefaultPlan,
    policy_id: UUID,
    query: Annotated[LimitPolicyHistoryQuery, Query()],
) -> Response:
    """Who changed what of a policy and its overrides, newest first; also after the policy was deleted."""
    rows = await service.history(session, principal, plan, policy_id, query)
    return page_response(rows, query.limit, service.HISTORY_SORT, ("occurred_at", "id"))


def _answer(row: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return json_response(service.shown(row), status, {"ETag": etag(row["version"]), **(headers or {})})
