"""``/v1/limits/policies/{policy_id}/overrides``."""

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request
from starlette.responses import Response

from services.ratelimit.overrides import service
from services.ratelimit.overrides.schemas import (
    LimitOverride,
    LimitOverrideChange,
    LimitOverrideCreate,
    LimitOverrideQuery,
    LimitOverrideRemoval,
)
from services.ratelimit.policies import service as policies
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

router = service_router("limits", "/v1/limits/policies/{policy_id}/overrides")
Reader = Annotated[Principal, requires("limits:read")]
Writer = Annotated[Principal, requires("limits:write")]
administers = rated(route_class="admin")


@router.get("", response_model=Page[LimitOverride])
async def list_limit_overrides(
    principal: Reader,
    session: RequestSession,
    plan: DefaultPlan,
    policy_id: UUID,
    query: Annotated[LimitOverrideQuery, Query()],
) -> Response:
    """The overrides of a policy, oldest first, expired ones among them."""
    policy = await policies.get(session, principal, policy_id, plan)
    rows = await service.page(session, principal, policy, query)
    return page_response(rows, query.limit, service.SORT, ("created_at", "id"))


@router.post("", status_code=201, response_model=LimitOverride)
@administers
async def create_limit_override(
    _principal: Writer, session: RequestSession, editor: CurrentEditor, policy_id: UUID, body: LimitOverrideCreate
) -> Response:
    """Give some subjects of a policy another quota; a policy of the plan can only be made stricter."""
    policy = await policies.lock(session, editor, policy_id)
    row = await service.create(session, editor, policy, body)
    return _answer(row, 201, {"Location": f"/v1/limits/policies/{policy_id}/overrides/{row['id']}"})


@router.get("/{override_id}", response_model=LimitOverride)
async def get_limit_override(
    principal: Reader,
    session: RequestSession,
    plan: DefaultPlan,
    request: Request,
    policy_id: UUID,
    override_id: UUID,
) -> Response:
    """One override of a policy."""
    policy = await policies.get(session, principal, policy_id, plan)
    row = await service.get(session, principal, policy, override_id)
    return not_modified(request, row["version"]) or _answer(row)


@router.patch("/{override_id}", response_model=LimitOverride)
@administers
async def update_limit_override(
    principal: Writer,
    session: RequestSession,
    editor: CurrentEditor,
    request: Request,
    policy_id: UUID,
    override_id: UUID,
    body: LimitOverrideChange,
) -> Response:
    """Change an override; it takes effect everywhere within a second."""
    policy = await policies.lock(session, editor, policy_id)
    before = await service.get(session, principal, policy, override_id)
    check_if_match(request, before["version"])
    return _answer(await service.change(session, editor, policy, before, body))


@router.delete("/{override_id}", status_code=204)
@administers
async def delete_limit_override(
    principal: Writer,
    session: RequestSession,
    editor: CurrentEditor,
    request: Request,
    policy_id: UUID,
    override_id: UUID,
    query: Annotated[LimitOverrideRemoval, Query()],
) -> Response:
    """Delete an override: its subjects have the policy's own quota again."""
    policy = await policies.lock(session, editor, policy_id)
    before = await service.get(session, principal, policy, override_id)
    check_if_match(request, before["version"])
    await service.delete(session, editor, policy, before, force=query.force)
    return Response(status_code=204)


def _answer(row: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return json_response(row, status, {"ETag": etag(row["version"]), **(headers or {})})
