"""Limits of callers who are nobody yet, by their address: slowapi guards the routes, our counters do the counting.

slowapi asks its storage inside the event loop, where nothing may wait. So the counters are asked right before it
(``by_address``), and its storage has no more to do than to repeat what they said.
"""

from __future__ import annotations

import functools
import inspect
import logging
import warnings
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from limits.storage import Storage
from slowapi import Limiter
from slowapi.errors import RateLimitExceeded
from starlette.requests import Request
from starlette.responses import Response

from shared import clock
from shared.errors import Problem, ReducedCapacity, TooManyRequests
from shared.ids import NIL, derived_id
from shared.limits.client import Limits
from shared.limits.decision import Decision, Verdict
from shared.limits.headers import limit_fields
from shared.limits.policies import OnFailure, Policy, Window
from shared.limits.problems import length

Handler = Callable[..., Awaitable[Response]]
_IPV6_HOST_BITS = 64
_SCHEME = "asked"

_said: ContextVar[Verdict] = ContextVar("said")
"""The counters' word on the call that is being handled."""


def platform_policy(name: str, quota: int, window: Window, on_failure: OnFailure = "closed") -> Policy:
    """A limit of the platform itself, which all processes count together; the same name is the same count."""
    identifier = derived_id("platform-limit", name)
    return Policy(identifier, NIL, name, quota, window=window, mode="strict", on_failure=on_failure)


def address_subject(address: str | None) -> str:
    """What an address is counted under. An IPv6 network of 64 bits is one caller: whoever has it has all of it."""
    try:
        parsed: IPv4Address | IPv6Address = ip_address((address or "").partition("%")[0])
    except ValueError:
        return "address:unknown"
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is None:
            network = IPv6Address(int(parsed) >> _IPV6_HOST_BITS << _IPV6_HOST_BITS)
            return f"address:{network}/{_IPV6_HOST_BITS}"
        parsed = parsed.ipv4_mapped
    return f"address:{parsed}"


def too_many(decision: Decision) -> Problem:
    """The problem of a refusal by the platform's own limits: nobody can look those up or change them."""
    if decision.unavailable:
        return ReducedCapacity(
            "How often this was tried cannot be checked at the moment; try again shortly.",
            retry_after=decision.retry_after,
        )
    return TooManyRequests(
        f"There were too many attempts; try again in {length(decision.retry_after)}.",
        retry_after=decision.retry_after,
        headers=limit_fields([each for each in decision.verdicts if not each.allowed]),
    )


class AddressLimits:
    """The limits that an application's routes name in ``by_address``; it finds them as ``app.state.address_limits``."""

    def __init__(self, limits: Limits, policies: Mapping[str, Policy]) -> None:
        self._limits = limits
        self._policies = policies

    async def take(self, name: str, address: str | None) -> Decision:
        """Count one call of an address."""
        return await self._limits.take([(self._policies[name], address_subject(address))])


def by_address(name: str) -> Callable[[Handler], Handler]:
    """Limit an operation by its caller's address, under its ``@router.post(…)``.

    A call counts once it is known to be valid. Beyond the limit its handler does not run: 429, or 503 when it cannot
    be counted.
    """

    def guard(handler: Handler) -> Handler:
        limited = _limited(_with_request(handler))

        @functools.wraps(limited)
        async def asked(**arguments: Any) -> Response:
            request: Request = arguments["request"]
            limits: AddressLimits = request.app.state.address_limits
            decision = await limits.take(name, request.scope["principal"].client_address)
            if decision.unavailable:
                raise too_many(decision)
            _said.set(decision.verdicts[0])
            try:
                return await limited(**arguments)
            except RateLimitExceeded:
                raise too_many(decision) from None

        return asked

    return guard


class _Said(Storage):
    """What slowapi counts in: it was counted already."""

    STORAGE_SCHEME = [_SCHEME]  # noqa: RUF012 (declared so by its base)

    @property
    def base_exceptions(self) -> type[Exception]:
        return LookupError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:  # noqa: ARG002 (slowapi's)
        return self.get(key)

    def get(self, key: str) -> int:  # noqa: ARG002 (slowapi's)
        verdict = _said.get()
        return verdict.quota - verdict.remaining if verdict.allowed else verdict.quota + 1

    def get_expiry(self, key: str) -> float:  # noqa: ARG002 (slowapi's)
        return clock.now().timestamp() + _said.get().resets_in

    def check(self) -> bool:
        return True

    def reset(self) -> None:
        """Nothing is kept here."""

    def clear(self, key: str) -> None:
        """Nothing is kept here."""


class _Limiter(Limiter):
    """slowapi as it is set up here, and not by variables of the environment that are not ours."""

    def get_app_config(self, key: str, default_value: Any = None) -> Any:  # noqa: ARG002 (slowapi's)
        return default_value


def _key(request: Request) -> str:
    return address_subject(request.scope["principal"].client_address)


def _limit() -> str:
    policy = _said.get().policy
    return f"{policy.quota}/{policy.window}"


_limiter = _Limiter(key_func=_key, storage_uri=f"{_SCHEME}://", key_style="endpoint")
_limiter.logger.setLevel(logging.ERROR)  # it would write the address of everybody who is refused


def _limited(handler: Handler) -> Handler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # how slowapi finds out that a handler is a coroutine
        limited: Handler = _limiter.limit(_limit)(handler)
    return limited


def _with_request(handler: Handler) -> Handler:
    """The handler with a parameter ``request``, which slowapi insists on."""
    signature = inspect.signature(handler)
    if "request" in signature.parameters:
        return handler
    added = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)

    @functools.wraps(handler)
    async def taking(**arguments: Any) -> Response:
        del arguments["request"]
        return await handler(**arguments)

    parameters = [*signature.parameters.values(), added]
    taking.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return taking
