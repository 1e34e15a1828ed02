"""``/v1/sessions``."""

from typing import Annotated
from uuid import UUID

from fastapi import Query, Request
from starlette.responses import Response

from services.identity import passwords
from services.identity.accounts import service as account_service
from services.identity.accounts.schemas import OwnSession
from services.identity.guard import SIGN_IN
from services.identity.sessions import service
from services.identity.sessions.schemas import SignedIn, SignIn, SwitchOrganization
from services.identity.web import TOO_MANY, EdgeDep
from shared.errors import Unauthenticated
from shared.http import (
    BeginSession,
    Page,
    PageParams,
    PrincipalDep,
    RequestSession,
    SignedInUser,
    json_response,
    page_response,
    service_router,
)
from shared.http.problems import render
from shared.limits.anonymous import by_address

router = service_router("sessions", "/v1/sessions")


@router.post("", status_code=201, response_model=SignedIn, responses=TOO_MANY)
@by_address(SIGN_IN)
async def sign_in(
    principal: PrincipalDep, begin: BeginSession, edge: EdgeDep, request: Request, body: SignIn
) -> Response:
    """Sign in with e-mail and password: the answer sets the session cookie."""
    attempt = await edge.guard.password(body.email, edge.address)
    async with edge.reading() as reading:
        user = await service.account_of(reading, body.email)
    correct = await passwords.verify_password(user["password_hash"] if user else None, body.password)
    session = await begin()
    started = None
    if user is not None and correct:
        started = await service.sign_in(
            session,
            principal,
            user,
            body.organization_id,
            lifetime=edge.own.session_lifetime,
            user_agent=edge.user_agent,
        )
    if user is None or started is None:
        await service.sign_in_failed(session, principal, user)
        # Returned, not raised: that it failed is a fact to keep, and raising would undo it.
        return render(
            Unauthenticated("The e-mail address or the password is wrong.", code="invalid_credentials"), request.scope
        )
    attempt.succeeded()
    content = {"user": account_service.shown(user), "session": started.session}
    return edge.signed_in(content, started.token)


@router.get("", response_model=Page[OwnSession])
async def list_sessions(
    principal: SignedInUser, session: RequestSession, query: Annotated[PageParams, Query()]
) -> Response:
    """Where the signed-in person is signed in, oldest first."""
    return page_response(await service.page(session, principal, query), query.limit, service.SORT, ("created_at", "id"))


@router.get("/current", response_model=OwnSession)
async def get_current_session(principal: SignedInUser, session: RequestSession) -> Response:
    """This session."""
    return json_response(service.shown(await service.current(session, principal), principal.session_id))


@router.delete("/current", status_code=204)
async def sign_out(principal: SignedInUser, session: RequestSession, edge: EdgeDep) -> Response:
    """Sign out: this session ends and the cookie goes."""
    row = await service.current(session, principal)
    await service.end(session, principal, row["id"])
    return edge.signed_out()


@router.post("/current/organization", response_model=OwnSession)
async def switch_organization(principal: SignedInUser, session: RequestSession, body: SwitchOrganization) -> Response:
    """Work in another of one's organisations from the next request on."""
    row = await service.switch(session, principal, body.organization_id)
    return json_response(service.shown(row, principal.session_id))


@router.delete("/{session_id}", status_code=204)
async def end_session(principal: SignedInUser, session: RequestSession, session_id: UUID) -> Response:
    """End one of one's sessions, somewhere else for example."""
    await service.end(session, principal, session_id)
    return Response(status_code=204)
