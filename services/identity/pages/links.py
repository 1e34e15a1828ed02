"""``/verify-email``, ``/reset-password``, ``/accept-invitation``: a link shows a form, the form does it.

Following a link changes nothing, because programs that look through mails follow links too.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query
from pydantic import ValidationError
from starlette.responses import Response

from services.identity import passwords
from services.identity.accounts import service as accounts
from services.identity.accounts.schemas import PasswordReset, TokenGiven
from services.identity.cookies import session_cookie
from services.identity.guard import PAGE, RESET, SIGN_UP
from services.identity.invitations import service as invitations
from services.identity.invitations.schemas import InvitationAccept
from services.identity.pages.html import PageRoute, message, page
from services.identity.sessions import service as sessions
from services.identity.web import Edge, EdgeDep
from shared.errors import Problem
from shared.http import PrincipalDep
from shared.limits.anonymous import by_address

router = APIRouter(route_class=PageRoute, include_in_schema=False)
LinkToken = Annotated[str, Query(max_length=200)]
FormText = Annotated[str, Form(max_length=1000)]

_DEAD = (
    "This link does not work any more",
    "It has been used, has expired, or was cut short on its way. Ask for a new one.",
)


def _dead() -> Response:
    return message(*_DEAD, status=400)


def _verify_form(token: str, error: str = "", status: int = 200) -> Response:
    return page("form", status, title="Confirm your e-mail address", action="/verify-email", token=token, error=error,
                text="One click shows that this address is yours.", button="Confirm")  # fmt: skip


def _reset_form(token: str, error: str = "", status: int = 200) -> Response:
    return page("form", status, title="Choose a new password", action="/reset-password", token=token, error=error,
                text="It replaces the old one, and you are signed out everywhere.", asks_password=True,
                button="Save the new password")  # fmt: skip


def _accept_form(found: invitations.Offer, token: str, error: str = "", name: str = "", status: int = 200) -> Response:
    organization, invitation = found.organization["name"], found.invitation
    return page("form", status, title=f"Join {organization}", action="/accept-invitation", token=token, error=error,
                text=f"{invitation['email']} is invited to {organization} as {invitation['role']}.",
                asks_name=found.user is None, asks_password=found.needs_password, name=name,
                button="Join")  # fmt: skip


@router.get("/verify-email")
@by_address(PAGE)
async def show_verify_email(edge: EdgeDep, token: LinkToken = "") -> Response:
    """The form behind a verification link."""
    return _verify_form(token) if await _is_valid(edge, token, "email_verification") else _dead()


@router.post("/verify-email")
@by_address(RESET)
async def do_verify_email(principal: PrincipalDep, edge: EdgeDep, token: FormText = "") -> Response:
    """Confirm the address."""

    async def work() -> Response:
        given = TokenGiven(token=token)
        async with edge.database.transaction() as session:
            await accounts.verify_email(session, principal, given.token)
        return message("Your e-mail address is confirmed", "You can close this page.")

    return await _answer(work, lambda error, status: _verify_form(token, error, status))


@router.get("/reset-password")
@by_address(PAGE)
async def show_reset_password(edge: EdgeDep, token: LinkToken = "") -> Response:
    """The form behind a reset link."""
    return _reset_form(token) if await _is_valid(edge, token, "password_reset") else _dead()


@router.post("/reset-password")
@by_address(RESET)
async def do_reset_password(
    principal: PrincipalDep, edge: EdgeDep, token: FormText = "", password: FormText = ""
) -> Response:
    """Replace the password."""

    async def work() -> Response:
        given = PasswordReset(token=token, password=password)
        hashed = await passwords.hash_new_password(given.password)
        async with edge.database.transaction() as session:
            await accounts.reset_password(session, principal, edge.settings, given.token, hashed)
        return message("Your password is changed", "Sign in with the new one.", headers=_without_cookie(edge))

    return await _answer(work, lambda error, status: _reset_form(token, error, status))


@router.get("/accept-invitation")
@by_address(PAGE)
async def show_accept_invitation(edge: EdgeDep, token: LinkToken = "") -> Response:
    """The form behind an invitation's link."""

    async def work() -> Response:
        return _accept_form(await _offer(edge, TokenGiven(token=token).token), token)

    return await _answer(work, lambda _error, _status: _dead())


@router.post("/accept-invitation")
@by_address(SIGN_UP)
async def do_accept_invitation(
    principal: PrincipalDep, edge: EdgeDep, token: FormText = "", name: FormText = "", password: FormText = ""
) -> Response:
    """Join the organisation; who is new is signed in."""
    found: list[invitations.Offer] = []

    async def work() -> Response:
        found.append(await _offer(edge, TokenGiven(token=token).token))
        given = InvitationAccept(token=token, name=name or None, password=password or None)
        invitations.check_complete(found[0], given.name, given.password)
        hashed = None
        if found[0].needs_password and given.password is not None:
            email = found[0].invitation["email"]
            hashed = await passwords.hash_new_password(given.password, email=email, name=given.name or "")
        async with edge.database.transaction() as session:
            made = await invitations.accept(
                session, principal, edge.settings, given.token, name=given.name, password_hash=hashed
            )
            headers = await _sign_in(session, principal, edge, made) if made.proven else {}
        return message(f"Welcome to {made.organization['name']}", "You are a member now.", headers=headers)

    return await _answer(
        work, lambda error, status: _accept_form(found[0], token, error, name, status) if found else _dead()
    )


async def _sign_in(session: Any, principal: Any, edge: Edge, made: invitations.Acceptance) -> dict[str, str]:
    lifetime = edge.own.session_lifetime
    started = await sessions.start(
        session, principal, made.user["id"], made.organization["id"], method="invitation", lifetime=lifetime,
        user_agent=edge.user_agent,
    )  # fmt: skip
    return {"Set-Cookie": session_cookie(edge.settings, started.token, int(lifetime.total_seconds()))}


def _without_cookie(edge: Edge) -> dict[str, str]:
    return {"Set-Cookie": session_cookie(edge.settings, "", 0)}


async def _is_valid(edge: Edge, token: str, purpose: str) -> bool:
    async with edge.database.transaction() as session:
        return await accounts.token_is_valid(session, token, purpose)


async def _offer(edge: Edge, token: str) -> invitations.Offer:
    async with edge.database.transaction() as session:
        return await invitations.offer(session, token)


async def _answer(work: Callable[[], Awaitable[Response]], again: Callable[[str, int], Response]) -> Response:
    """What ``work`` answers; the form again, with what was wrong, when the person can mend it."""
    try:
        return await work()
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("token",):
            return _dead()
        return again(f"{str(first['loc'][-1]).capitalize()}: {first['msg']}.", 422)
    except Problem as problem:
        if problem.code == "invalid_token":
            return _dead()
        if problem.status >= 500:
            raise
        return again(problem.detail or problem.title, problem.status)
