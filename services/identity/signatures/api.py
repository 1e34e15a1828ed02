"""``/v1/signatures``."""

from typing import Annotated

from starlette.responses import Response

from services.identity.signatures import service
from services.identity.signatures.schemas import SignatureExplanation, SignedRequest
from services.identity.web import EdgeDep
from shared.auth import Principal
from shared.http import json_response, rated, requires, service_router

router = service_router("signatures", "/v1/signatures")
Reader = Annotated[Principal, requires("api_keys:read")]


@router.post("/verify", response_model=SignatureExplanation)
@rated(cost=5, route_class="search")
async def verify_signature(principal: Reader, edge: EdgeDep, body: SignedRequest) -> Response:
    """Explain what is wrong with a signed request, for test keys only (`live_key` otherwise). Nothing is remembered.

    A signature that does not match is tried with the usual mistakes, and `hints` say which of them explain it. Neither the
    secret nor the signature that would be right is ever shown.
    """
    async with edge.reading(principal.organization_id) as session:
        question = await service.ask(session, edge.vault, principal, body)
    return json_response(await service.explain(question))
