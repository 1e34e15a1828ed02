"""One request on its way through the pipeline."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from gateway import addresses
from gateway.answers import Seal
from gateway.problems import (
    BadGateway,
    ClientLeft,
    Overloaded,
    UpstreamAborted,
    UpstreamBusy,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.receiving import Receiving
from gateway.shedding import Priority, priority_of
from gateway.stages import Call, replayed
from gateway.trace import Trace, request_id_of
from gateway.upstream import HttpUpstream, Request
from shared.auth import IDENTITY_HEADER, Principal
from shared.auth.principal import ANONYMOUS
from shared.errors import NotFound, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from gateway.credentials import Credential
    from gateway.cycle import Cycle
    from gateway.edge import Pair
    from gateway.guards import Guard
    from gateway.pipeline import Pipeline
    from gateway.routing import Route
    from gateway.stages import OnAnswer
    from shared.limits.policies import Operation

logger = logging.getLogger(__name__)

_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-proto"})


class Exchange(Receiving):
    """State of one request. ``receive`` and ``send`` are what a service is given while it works."""

    __slots__ = (
        "_ended",
        "_forwarded_at",
        "_on_answer",
        "_place",
        "_priority",
        "_seal",
        "_task",
        "_verdict",
        "client",
        "headers",
        "service",
        "trace",
    )

    def __init__(self, core: Pipeline, scope: Any, receive: Any, send: Any) -> None:
        super().__init__(core, scope, receive, send)
        self._forwarded_at = 0.0
        self._ended: Callable[[int], None] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._verdict: Problem | None = None
        self._on_answer: OnAnswer | None = None
        self._seal: Seal | None = None  # takes the place of _raw_send where answers are signed
        self._place: Guard | None = None
        self._priority = Priority.INTERACTIVE
        self.service = "gateway"
        self.client = ""
        self.trace: Trace | None = None

    async def run(self) -> None:
        """Answer the request. Raises ``UpstreamAborted`` when an answer had to be broken off."""
        try:
            await self._handle()
        except Problem as problem:
            await self.answer_problem(problem)
        except UpstreamAborted:
            raise
        except Exception:
            if self.answered:
                raise
            logger.exception("unhandled error in the gateway (request %s)", self.request_id)
            await self.answer_problem(Problem("The error has been logged under this request_id."))
        finally:
            if self._ended is not None:
                self._ended(self.status)
            self.core.deadlines.remove(self)
            if self.trace is not None and self.trace.span is not None:
                self.trace.finish(self.status, self.service, self.scope["method"])
            seconds = time.perf_counter() - self.started
            self.core.metrics.answered(self.service, self.scope["method"], self.status, seconds)

    # -- the stages ----------------------------------------------------------------------------------
    async def _handle(self) -> None:
        core, scope = self.core, self.scope
        self._admit()
        method, path = scope["method"], scope["path"]
        preflight = core.cors.preflight(method, self.noted)
        if preflight is not None:
            await self.answer(204, preflight, b"")
            return
        page = core.pages.get(path)
        if page is not None:
            await self.answer(*await page(self))
            return
        route = core.table.match(path)
        if route is None:
            raise NotFound("There is nothing at this path; see /docs for what there is.", code="unknown_path")
        operation = core.operations.find(method, path, route.prefix)
        self._priority = priority_of(route.service, operation)
        if core.shedder.share and core.shedder.refuses(self._priority):
            core.metrics.shed(self._priority)
            raise Overloaded("The gateway has more to do than it can do in time; try again in a second.")
        core.guards[route.service].bulkhead.check(self._priority)
        credential = core.authenticator.by_warm_key(self.noted.get(b"authorization"))
        if credential is None:
            public = core.table.is_public(method, path)
            credential = await core.authenticator.identify(method, self.noted, public=public)
        self._credential = credential
        self.principal = principal = ANONYMOUS if credential is None else credential.principal
        if credential is not None and credential.signing is not None and credential.signing.answers:
            self._seal = self._raw_send = Seal(scope, self._raw_send, credential.signing, core.platform, self.secure)
        receive = self._raw_receive if self._body_left < 0 else self.piece
        if core.signatures is not None or core.quotas is not None:
            receive = await self._take_stages(route, operation, principal, credential, receive)
        await self._forward(route, credential, receive)

    def _admit(self) -> None:
        """Edge guard: what cannot be right is refused before anything is decided on it."""
        core, scope = self.core, self.scope
        self.headers, noted = core.rules.sort(scope["headers"])
        self.noted = noted
        self.request_id = request_id_of(noted.get(b"x-request-id"))
        core.guard.check_host(noted.get(b"host"))
        core.guard.check_path(scope.get("raw_path") or scope["path"].encode())
        peer = scope["client"]
        self.client, self.secure = addresses.origin_of(peer[0] if peer else "", core.trusted, noted, secure=self.secure)
        length = noted.get(b"content-length")
        if length is not None:
            self._expect_body(length)
        elif b"transfer-encoding" in noted:
            self._body_left = core.max_body_bytes
            self.headers.append((b"transfer-encoding", b"chunked"))  # the protocol lets no other coding pass

    async def _take_stages(
        self, route: Route, operation: Operation, principal: Principal, credential: Credential | None, receive: Any
    ) -> Any:
        core, scope = self.core, self.scope
        call = Call(
            scope["method"], scope["path"], scope["raw_path"], scope["query_string"], scope["headers"], route, operation,
            principal,
            None if credential is None else credential.signing, self.secure,
            None if credential is None else credential.caller,
        )  # fmt: skip
        if core.signatures is not None:
            receive, self._content, self._on_answer = await core.signatures.verify(call, receive)
            if self._seal is not None:
                self._seal.signed_by = call.signed_by
        if core.quotas is not None:
            headers, self._ended, refused = await core.quotas.take(call)
            self._extra += headers
            if refused is not None:
                raise refused
        return receive

    # -- forwarding ----------------------------------------------------------------------------------
    async def _forward(self, route: Route, credential: Credential | None, receive: Any) -> None:
        core = self.core
        self.service = route.service
        self._add_headers(credential)
        upstream, guard = core.upstreams[route.service], core.guards[route.service]
        cycle: Cycle | None = self.scope.get("guardian.cycle")
        content, more = (b"", False) if self._body_left < 0 else await self._gathered(receive, cycle)
        self._task = task = asyncio.current_task() if cycle is None else cycle.task
        if more:  # what comes slowly must not take a place from what is here
            guard.breaker.check()
        else:
            if not guard.try_enter(self._priority):
                await guard.enter(self._priority)
            self._place = guard
        self._forwarded_at = now = time.perf_counter()
        core.deadlines.add(self, now + core.timeout)
        if not more:  # while content comes, nobody can know how long the rest of it takes
            self.headers.append(core.patience)
        caller = None if credential is None else credential.caller
        limited = self.client if caller is None else caller.organization_id
        failure: BaseException | None = None
        try:
            await self._ask(upstream, content, limited, more=more)
        except asyncio.CancelledError as error:
            if self._verdict is None:
                raise  # the client has left, or the server stops
            failure = error
        except Exception as error:
            failure = error
        finally:
            self._leave()
            guard.judge(time.perf_counter(), answered=self._was_answered(failure))
        if self._verdict is not None and task is not None:
            task.uncancel()
        if not self.complete:
            await self._upstream_failed(failure)

    async def _ask(self, upstream: Any, content: bytes, limited: Hashable, *, more: bool) -> None:
        """A service in another process is asked without ASGI's detours."""
        scope = self.scope
        if isinstance(upstream, HttpUpstream):
            request = Request(scope["method"], scope["raw_path"], scope["query_string"], self.headers)
            # A seal sees all that is sent, piece by piece, and who is told of the answer may take its time.
            direct = self._seal is None and self._on_answer is None and "guardian.cycle" in scope
            respond = self._respond if direct else None
            rest = self.receive if more else None
            await upstream.forward(request, content, rest, self.send, caller=limited, respond=respond)
        else:
            scope = {**scope, "headers": self.headers, "client": (self.client, 0), "guardian.caller": limited}
            scope["scheme"] = "https" if self.secure else "http"
            receive = self._raw_receive if self._body_left < 0 else replayed(content, self.receive, more=more)
            await upstream(scope, receive, self.send)

    def _leave(self) -> None:
        """Give the place at the service back: when its answer begins, for how long that takes is its reader's affair."""
        place, self._place = self._place, None
        if place is not None:
            place.bulkhead.leave()

    def _was_answered(self, failure: BaseException | None) -> bool | None:
        """Whether the service answered at all; None when it was not its turn to, or the client did not wait."""
        if self.answered:
            return True
        if isinstance(failure, ClientLeft):
            return None
        if isinstance(failure, UpstreamUnavailable | OSError) or isinstance(self._verdict, UpstreamTimeout):
            return False
        return None

    def _add_headers(self, credential: Credential | None) -> None:
        """What the service is told beside what the client said: who calls, and which request and trace this is."""
        core, noted, headers = self.core, self.noted, self.headers
        self.trace = trace = core.tracing.begin(noted.get(b"traceparent"), noted.get(b"tracestate"))
        kept = core.anonymous if credential is None else credential.claims
        claims = kept.get(self.service)
        if claims is None:
            assert self.principal is not None
            claims = kept[self.service] = core.signer.claims(self.principal, self.service)
        headers.append((IDENTITY_HEADER, core.signer.state(claims, time.time(), self.client, self.request_id)))
        headers.append((b"x-request-id", self.request_id.encode()))
        headers.append((b"traceparent", trace.traceparent))
        if trace.tracestate is not None:
            headers.append((b"tracestate", trace.tracestate))
        if not _FORWARDED.isdisjoint(noted):
            headers.append((b"via", b"1.1 proxy"))  # what a proxy claimed is dropped, but not that there is one

    def _respond(self, status: int, headers: list[Pair], content: bytes) -> None:
        """Instead of ``send``, for an answer that came as a whole."""
        if self._verdict is None:
            self.scope["guardian.cycle"].respond(status, self.made(status, headers, self._forwarded_at), content)
            self.complete = True

    async def _upstream_failed(self, failure: BaseException | None) -> None:
        """The service did not answer, or not to the end; what it raised is logged, never shown."""
        problem = self._verdict
        if problem is None and isinstance(failure, UpstreamUnavailable):
            logger.warning("%s cannot be reached (request %s): %s", self.service, self.request_id, failure.__cause__)
            problem = failure
        elif problem is None and isinstance(failure, UpstreamBusy):
            problem = failure
        elif problem is None:
            logger.error(
                "%s failed on %s %s (request %s)", self.service, self.scope["method"], self.scope["path"],
                self.request_id, exc_info=failure,
            )  # fmt: skip
            if failure is None or isinstance(failure, OSError):
                problem = BadGateway("The service ended without an answer; the error has been logged.")
            else:
                problem = Problem("The error has been logged under this request_id.")
        if self._is_begun():
            raise UpstreamAborted(f"{self.service}: {problem.code}")
        await self.answer_problem(problem)

    def overdue(self) -> float | None:
        """The deadline: counted from the body's last byte, because slow uploads are not the service's fault."""
        now = time.perf_counter()
        since = now if self._reading else max(self._body_seen_at, self._forwarded_at)
        remaining = self.core.timeout - (now - since)
        if remaining > 0.001:
            return remaining
        self._give_up(UpstreamTimeout(f"The service did not answer within {self.core.timeout:g} seconds."))
        return None

    def _give_up(self, problem: Problem) -> None:
        if self._verdict is None and not self._is_begun() and self._task is not None:
            self._verdict = problem
            self._task.cancel()

    def _is_begun(self) -> bool:
        """Whether an answer was begun that nothing can be put in the place of."""
        return self.answered and not (self._seal is not None and self._seal.holds)

    # -- what the service is given -------------------------------------------------------------------
    async def receive(self) -> Any:
        """The content's next piece, for a service that is at work; what is wrong with it ends the request."""
        try:
            return await self.piece()
        except Problem as problem:
            return await self._break_off(problem)

    async def _break_off(self, problem: Problem) -> Any:
        self._give_up(problem)
        await asyncio.sleep(0)  # where the cancellation arrives
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """The service's answer, with the gateway's headers."""
        if self._verdict is not None:
            return
        if message["type"] == "http.response.start":
            self._leave()
            try:
                if self._on_answer is not None:
                    await self._on_answer(message["status"], message.get("headers", ()))
            except Problem as problem:
                await self._break_off(problem)
                return
            message = self.start(message["status"], message.get("headers", ()), self._forwarded_at)
            if self._seal is None:
                self.core.deadlines.remove(self)
        elif not message.get("more_body", False):
            await self._raw_send(message)
            self.complete = True
            return
        await self._raw_send(message)
