"""The outermost stage of a service: nobody passes without an identity the gateway (or an allowed peer) signed."""

import asyncio
import time
from collections.abc import Callable, Iterable

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import logs
from shared.auth import IDENTITY_HEADER, TIMEOUT_HEADER, IdentityVerifier, InvalidIdentity
from shared.errors import ServiceUnavailable, Unauthenticated
from shared.http.problems import problem_of, render
from shared.metrics import REQUEST_SECONDS

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
LEAST_SECONDS = 0.05
"""What is not worth beginning."""
STATUS_PATH = "/internal/status"
STATUS_CALLERS = ("monitor",)
"""Who may ask a service how it is doing, and nothing else unless it is among the service's callers."""


class ServiceEdge:
    """Pure ASGI: verifies ``Guardian-Identity``, sets ``scope["principal"]``, counts and times requests."""

    def __init__(
        self, app: ASGIApp, *, service: str, derive_key: Callable[[str], bytes], callers: Iterable[str]
    ) -> None:
        self.app = app
        self.service = service
        self.verifier = IdentityVerifier(derive_key, service, callers)
        self.status_verifier = IdentityVerifier(derive_key, service, STATUS_CALLERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        identity = trace = None
        patience = b""
        for name, value in scope["headers"]:
            if name == IDENTITY_HEADER:
                identity = value
            elif name == b"traceparent":
                trace = value.decode("latin-1")
            elif name == TIMEOUT_HEADER:
                patience = value
        try:
            if identity is None:
                raise Unauthenticated("Services answer only calls that come through the gateway.")
            verifier = self.status_verifier if scope["path"] == STATUS_PATH else self.verifier
            principal = verifier.verify(identity, time.time())
        except (InvalidIdentity, Unauthenticated) as error:
            await answer_problem(Unauthenticated(str(error), code="invalid_identity"), scope, receive, send)
            return
        scope["principal"] = principal
        with logs.request_context(principal, trace):
            await self._in_time(scope, receive, send, int(patience) / 1000 if patience.isdigit() else None)

    async def _in_time(self, scope: Scope, receive: Receive, send: Send, seconds: float | None) -> None:
        """Nobody waits any longer for what takes longer, so it is given up, and not even begun when no time is left."""
        if seconds is None:
            await self._timed(scope, receive, send)
        elif seconds < LEAST_SECONDS:
            await answer_problem(_late("There was no time left to begin with this."), scope, receive, send)
        else:
            await self._until(scope, receive, send, seconds)

    async def _until(self, scope: Scope, receive: Receive, send: Send, seconds: float) -> None:
        limit = asyncio.timeout(seconds)

        async def send_in_time(message: Message) -> None:
            limit.reschedule(None)  # an answer that has begun may take as long as its reader does
            await send(message)

        try:
            async with limit:
                await self._timed(scope, receive, send_in_time)
        except TimeoutError:
            if not limit.expired():
                raise
            text = "This took longer than its caller waits. An Idempotency-Key makes it safe to send it again."
            await answer_problem(_late(text), scope, receive, send)

    async def _timed(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        status = 0

        async def counting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, counting_send)
        except Exception as error:
            # Starlette's own last resort raises again after it has answered, for the server to log; here
            # the problem is logged once, by problem_of, and the host of this service sees an answer.
            if status:
                raise
            await answer_problem(error, scope, receive, counting_send)
        finally:
            REQUEST_SECONDS.labels(self.service, scope["method"], f"{(status or 500) // 100}xx").observe(
                time.perf_counter() - started
            )


def _late(text: str) -> ServiceUnavailable:
    return ServiceUnavailable(text, code="deadline_exceeded")


async def answer_problem(problem: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """Send ``problem`` as the whole answer."""
    response: Response = render(problem_of(problem), scope)
    await response(scope, receive, send)
