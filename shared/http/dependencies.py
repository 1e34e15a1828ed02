"""What a handler asks for: the caller, with the scope the operation needs, and the request's session."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant

from shared.auth import Principal
from shared.db import Session

Authorizer = Callable[[Request], Coroutine[Any, Any, Principal]]


def requires(scope: str) -> Any:
    """A dependency that gives the principal when it holds ``scope``; 401 or 403 otherwise.

    The scope is written into the operation's OpenAPI entry (``x-required-scope``), from which the route
    matrix test is generated.
    """

    async def authorize(request: Request) -> Principal:
        principal: Principal = request.scope["principal"]
        principal.require(scope)
        return principal

    authorize.required_scope = scope  # type: ignore[attr-defined]
    return Depends(authorize)


async def _signed_in(request: Request) -> Principal:
    principal: Principal = request.scope["principal"]
    principal.require_user()
    return principal


_signed_in.requires_user = True  # type: ignore[attr-defined]


async def _principal(request: Request) -> Principal:
    principal: Principal = request.scope["principal"]
    return principal


async def _begin(request: Request) -> Callable[[], Coroutine[Any, Any, Session]]:
    begin: Callable[[], Coroutine[Any, Any, Session]] = request.scope["unit_of_work"].begin
    return begin


async def _session(request: Request) -> Session:
    session: Session = await request.scope["unit_of_work"].begin()
    return session


def guards(dependant: Dependant) -> list[Authorizer]:
    """What of an operation's dependencies decides whether the caller may do it at all."""
    return [
        each.call
        for each in dependant.dependencies
        if each.call and (hasattr(each.call, "required_scope") or hasattr(each.call, "requires_user"))
    ]


PrincipalDep = Annotated[Principal, Depends(_principal)]
"""Any caller, even an anonymous one."""

SignedInUser = Annotated[Principal, Depends(_signed_in)]
"""A person with a session; 401 without one, 403 (``user_required``) for an API key.

For operations on one's own account, which no scope covers. Marked ``x-requires-user`` in OpenAPI.
"""

BeginSession = Annotated[Callable[[], Coroutine[Any, Any, Session]], Depends(_begin)]
"""Begins the request's transaction when called: for handlers with slow work before it, such as hashing."""

RequestSession = Annotated[Session, Depends(_session)]
"""The request's transaction, begun on first use and committed before the answer is sent."""
