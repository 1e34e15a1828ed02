"""``/v1/sign-up``, ``/v1/me``, ``/v1/email-verifications``, ``/v1/password-resets``."""

from fastapi import Request
from starlette.responses import Response

from services.identity import passwords
from services.identity.accounts import service
from services.identity.accounts.schemas import (
    Me,
    MeChange,
    PasswordChange,
    PasswordReset,
    PasswordResetRequest,
    SignedUp,
    SignUp,
    TokenGiven,
    User,
)
from services.identity.guard import RESET, SIGN_UP
from services.identity.mails import service as mails
from services.identity.schemas import Accepted
from services.identity.sessions import service as sessions
from services.identity.web import TOO_MANY, EdgeDep
from shared.errors import ValidationFailed
from shared.http import (
    BeginSession,
    PrincipalDep,
    RequestSession,
    SignedInUser,
    check_if_match,
    etag,
    json_response,
    service_router,
)
from shared.limits.anonymous import by_address

router = service_router("accounts")
ACCEPTED = {"status": "accepted"}


@router.post("/v1/sign-up", status_code=201, response_model=SignedUp, responses=TOO_MANY)
@by_address(SIGN_UP)
async def sign_up(principal: PrincipalDep, begin: BeginSession, edge: EdgeDep, body: SignUp) -> Response:
    """Make an organisation and its owner, and sign in: the answer sets the session cookie."""
    hashed = await passwords.hash_new_password(body.password, email=body.email, name=body.name)
    session = await begin()
    made = await service.sign_up(
        session,
        principal,
        edge.settings,
        organization=body.organization,
        data_region=body.data_region,
        name=body.name,
        email=body.email,
        password_hash=hashed,
    )
    started = await sessions.start(
        session,
        principal,
        made.user["id"],
        made.organization["id"],
        method="sign_up",
        lifetime=edge.own.session_lifetime,
        user_agent=edge.user_agent,
    )
    content = {"organization": made.organization, "user": made.user, "session": started.session}
    return edge.signed_in(content, started.token)


@router.get("/v1/me", response_model=Me)
async def get_me(principal: SignedInUser, session: RequestSession) -> Response:
    """The signed-in person, their organisations, and what they may do in the present one."""
    user, content = await service.describe_me(session, principal)
    return json_response(content, headers={"ETag": etag(user["version"])})


@router.patch("/v1/me", response_model=User)
async def update_me(principal: SignedInUser, session: RequestSession, request: Request, body: MeChange) -> Response:
    """Change one's own name."""
    before = await service.get_me(session, principal, lock=True)
    check_if_match(request, before["version"])
    row = await service.change_me(session, principal, before, body)
    return json_response(service.shown(row), headers={"ETag": etag(row["version"])})


@router.post("/v1/me/password", status_code=204, responses=TOO_MANY)
async def change_password(
    principal: SignedInUser, begin: BeginSession, edge: EdgeDep, body: PasswordChange
) -> Response:
    """Choose a new password; one's other sessions end."""
    attempt = await edge.guard.password(principal.actor_id, edge.address)
    async with edge.reading() as reading:
        user = await service.get_me(reading, principal)
    if not await passwords.verify_password(user["password_hash"], body.current_password):
        raise ValidationFailed(
            "The current password is wrong.",
            code="wrong_password",
            errors=[{"field": "/current_password", "code": "wrong_password", "message": "is not your password"}],
        )
    attempt.succeeded()
    hashed = await passwords.hash_new_password(
        body.new_password, email=user["email"], name=user["name"], field="/new_password"
    )
    session = await begin()
    await service.change_password(session, principal, edge.settings, user, hashed)
    return Response(status_code=204)


@router.post("/v1/email-verifications", status_code=202, response_model=Accepted, responses=TOO_MANY)
async def send_email_verification(principal: SignedInUser, session: RequestSession, edge: EdgeDep) -> Response:
    """Mail the signed-in person a new link to confirm their address."""
    await edge.guard.mail(principal.actor_id)
    await service.resend_verification(session, principal, edge.settings)
    return json_response(ACCEPTED, 202)


@router.post("/v1/email-verifications/confirm", status_code=204, responses=TOO_MANY)
@by_address(RESET)
async def confirm_email(principal: PrincipalDep, session: RequestSession, body: TokenGiven) -> Response:
    """Confirm an e-mail address with the token of the mailed link."""
    await service.verify_email(session, principal, body.token)
    return Response(status_code=204)


@router.post("/v1/password-resets", status_code=202, response_model=Accepted, responses=TOO_MANY)
@by_address(RESET)
async def request_password_reset(session: RequestSession, edge: EdgeDep, body: PasswordResetRequest) -> Response:
    """Mail a link to choose a new password. The answer is the same whether or not the address has an account."""
    if await edge.guard.may_mail(body.email):
        await mails.order_password_reset(session, edge.settings, body.email)
    return json_response(ACCEPTED, 202)


@router.post("/v1/password-resets/confirm", status_code=204, responses=TOO_MANY)
@by_address(RESET)
async def confirm_password_reset(
    principal: PrincipalDep, begin: BeginSession, edge: EdgeDep, body: PasswordReset
) -> Response:
    """Choose a new password with the token of the mailed link; every session of the account ends."""
    hashed = await passwords.hash_new_password(body.password)
    session = await begin()
    await service.reset_password(session, principal, edge.settings, body.token, hashed)
    return Response(status_code=204)
