"""Calls a service as the gateway would: through its whole ASGI application, as a principal, over the real database."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack
from importlib import import_module

import httpx
import pytest_asyncio
from fastapi import FastAPI

from shared.auth import IDENTITY_HEADER, IdentitySigner, Principal
from shared.settings import Settings

ServiceFactory = Callable[[str], Awaitable[FastAPI]]
ClientFactory = Callable[[str, Principal], Awaitable[httpx.AsyncClient]]


class SignedAs(httpx.Auth):
    """Puts the identity of ``principal``, signed by the gateway, on every request."""

    def __init__(self, settings: Settings, service: str, principal: Principal) -> None:
        self.signer = IdentitySigner(settings.derive_key, "gateway")
        self.service = service
        self.principal = principal

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign one request; an identity is good for a minute."""
        request.headers[IDENTITY_HEADER.decode()] = self.signer.sign(self.principal, self.service, time.time()).decode()
        yield request


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def service_app(settings: Settings) -> AsyncIterator[ServiceFactory]:
    """``await service_app("crm")``: that service's application, started once and stopped after the run."""
    started: dict[str, FastAPI] = {}
    async with AsyncExitStack() as stack:

        async def start(service: str) -> FastAPI:
            if service not in started:
                app: FastAPI = import_module(f"services.{service}.app").create_app(settings)
                await stack.enter_async_context(app.router.lifespan_context(app))
                started[service] = app
            return started[service]

        yield start


@pytest_asyncio.fixture
async def client(settings: Settings, service_app: ServiceFactory) -> AsyncIterator[ClientFactory]:
    """``await client("crm", principal("contacts:read"))``: an HTTP client that calls that service as that principal.

    Answers are buffered, and an exception the application lets through is raised in the test.
    """
    async with AsyncExitStack() as stack:

        async def connect(service: str, principal: Principal) -> httpx.AsyncClient:
            made = httpx.AsyncClient(
                transport=httpx.ASGITransport(app=await service_app(service)),
                base_url=f"http://{service}",
                auth=SignedAs(settings, service, principal),
            )
            return await stack.enter_async_context(made)

        yield connect
