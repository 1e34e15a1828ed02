"""``/v1/api-keys/{key_id}/signing-keys``."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request
from starlette.responses import Response

from services.identity.api_keys import service as api_keys
from services.identity.api_keys.schemas import ApiKeyId
from services.identity.signing_keys import service
from services.identity.signing_keys.schemas import NewSigningKey, SigningKey, SigningKeyCreate, SigningKeyRotate
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

router = service_router("signing-keys", "/v1/api-keys/{key_id}/signing-keys")
Reader = Annotated[Principal, requires("api_keys:read")]
Writer = Annotated[Principal, requires("api_keys:write")]


@router.get("", response_model=Page[SigningKey])
async def list_signing_keys(
    principal: Reader, session: RequestSession, key_id: ApiKeyId, query: Annotated[PageParams, Query()]
) -> Response:
    """The signing keys of an API key, oldest first, revoked and expired ones among them."""
    api_key = await api_keys.get(session, principal, key_id)
    rows = await service.page(session, principal, api_key, query)
    return page_response(rows, query.limit, service.SORT, ("created_at", "id"))


@router.post("", status_code=201, response_model=NewSigningKey)
@rated(route_class="admin")
async def create_signing_key(
    principal: Writer, session: RequestSession, edge: EdgeDep, key_id: ApiKeyId, body: SigningKeyCreate
) -> Response:
    """Make a signing key, at most 5 that work for one API key. Its secret is in this answer and nowhere else.

    Requests need no signature before the API key's ``signature_policy`` says so. A public key that a signing key of the
    API key has, and that works, is refused: 409 with the code `signing_key_exists`, and its id as `signing_key_id`.
    """
    api_key = await api_keys.get(session, principal, key_id, lock=True)
    return _new(*await service.create(session, edge.vault, principal, api_key, body))


@router.get("/{signing_key_id}", response_model=SigningKey)
async def get_signing_key(
    principal: Reader, session: RequestSession, request: Request, key_id: ApiKeyId, signing_key_id: UUID
) -> Response:
    """One signing key, without its secret."""
    api_key = await api_keys.get(session, principal, key_id)
    row = await service.get(session, principal, api_key, signing_key_id)
    headers = {"ETag": etag(row["version"])}
    return not_modified(request, row["version"]) or json_response(service.shown(row), headers=headers)


@router.delete("/{signing_key_id}", status_code=204)
@rated(route_class="admin")
async def revoke_signing_key(
    principal: Writer, session: RequestSession, request: Request, key_id: ApiKeyId, signing_key_id: UUID
) -> Response:
    """Revoke a signing key for good, unless the API key's policy needs it; takes effect within a second."""
    api_key = await api_keys.get(session, principal, key_id, lock=True)
    before = await service.get(session, principal, api_key, signing_key_id)
    check_if_match(request, before["version"])
    await service.revoke(session, principal, api_key, before)
    return Response(status_code=204)


@router.post("/{signing_key_id}/rotate", status_code=201, response_model=NewSigningKey)
@rated(route_class="admin")
async def rotate_signing_key(
    principal: Writer,
    session: RequestSession,
    edge: EdgeDep,
    request: Request,
    key_id: ApiKeyId,
    signing_key_id: UUID,
    body: SigningKeyRotate,
) -> Response:
    """Make a signing key's successor; the old one goes on working for ``overlap_seconds``.

    A successor has another public key than the keys that work, the old one among them: 409 with the code
    `signing_key_exists` otherwise, and the id of the one that has it as `signing_key_id`.
    """
    api_key = await api_keys.get(session, principal, key_id, lock=True)
    before = await service.get(session, principal, api_key, signing_key_id)
    check_if_match(request, before["version"])
    return _new(*await service.rotate(session, edge.vault, principal, api_key, before, body))


def _new(row: dict[str, Any], secret: str | None) -> Response:
    location = f"/v1/api-keys/{row['api_key_id']}/signing-keys/{row['id']}"
    return json_response({**row, "secret": secret}, 201, {"ETag": etag(1), "Location": location})
