"""``/v1/api-keys``."""

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from services.identity.api_keys import service
from services.identity.api_keys.schemas import ApiKey, ApiKeyChange, ApiKeyCreate, ApiKeyId, ApiKeyReroll, NewApiKey
from services.identity.web import EdgeDep
from shared.auth import Principal
from shared.http import (
    Page,
    PageParams,
    RequestSession,
    check_if_match,
    etag,
    json_response,
    not_modified,
    page_response,
    rated,
    requires,
    service_router,
)

router = service_router("api-keys", "/v1/api-keys")
Reader = Annotated[Principal, requires("api_keys:read")]
Writer = Annotated[Principal, requires("api_keys:write")]


@router.get("", response_model=Page[ApiKey])
async def list_api_keys(principal: Reader, session: RequestSession, query: Annotated[PageParams, Query()]) -> Response:
    """The organisation's API keys, oldest first, revoked ones among them."""
    return page_response(await service.page(session, principal, query), query.limit, service.SORT, ("created_at", "id"))


@router.post("", status_code=201, response_model=NewApiKey)
@rated(route_class="admin")
async def create_api_key(principal: Writer, session: RequestSession, body: ApiKeyCreate) -> Response:
    """Make an API key. Its text is in this answer and nowhere else."""
    row, text = await service.create(session, principal, body)
    return _new(row, text)


@router.get("/{key_id}", response_model=ApiKey)
async def get_api_key(principal: Reader, session: RequestSession, request: Request, key_id: ApiKeyId) -> Response:
    """One API key, without its secret."""
    row = await service.get(session, principal, key_id)
    return not_modified(request, row["version"]) or json_response(row, headers={"ETag": etag(row["version"])})


@router.patch("/{key_id}", response_model=ApiKey)
@rated(route_class="admin")
async def update_api_key(
    principal: Writer, session: RequestSession, request: Request, key_id: ApiKeyId, body: ApiKeyChange
) -> Response:
    """Rename a key, or change its scopes, expiry, or what is signed; takes effect everywhere within a second."""
    before = await service.get(session, principal, key_id, lock=True)
    check_if_match(request, before["version"])
    row = await service.change(session, principal, before, body)
    return json_response(row, headers={"ETag": etag(row["version"])})


@router.delete("/{key_id}", status_code=204)
@rated(route_class="admin")
async def revoke_api_key(principal: Writer, session: RequestSession, request: Request, key_id: ApiKeyId) -> Response:
    """Revoke a key for good; takes effect everywhere within a second."""
    before = await service.get(session, principal, key_id, lock=True)
    check_if_match(request, before["version"])
    await service.revoke(session, principal, before)
    return Response(status_code=204)


@router.post("/{key_id}/reroll", status_code=201, response_model=NewApiKey)
@rated(route_class="admin")
async def reroll_api_key(
    principal: Writer, session: RequestSession, edge: EdgeDep, request: Request, key_id: ApiKeyId, body: ApiKeyReroll
) -> Response:
    """Make a key's successor; the old one goes on working for ``overlap_seconds``.

    It has the same signature policy, its answers are signed if the old one's are, and it has copies of the signing keys:
    the same secrets under ids of their own.
    """
    before = await service.get(session, principal, key_id, lock=True)
    check_if_match(request, before["version"])
    row, text = await service.reroll(session, edge.vault, principal, before, body)
    return _new(row, text)


def _new(row: dict[str, object], text: str) -> Response:
    headers = {"ETag": etag(1), "Location": f"/v1/api-keys/{row['id']}"}
    return json_response({**row, "key": text}, 201, headers)
