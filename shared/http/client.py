"""How one service asks another a question that cannot wait for an event.

Each call has a deadline, carries the trace and an identity signed for that one service, and is made
once: retries belong to the gateway, which knows the budget. The same client calls an application of
this process and one behind an address.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping
from typing import Any

import httpx
from starlette.types import ASGIApp

from shared.auth import IDENTITY_HEADER, IdentitySigner, Principal
from shared.errors import Problem, ServiceUnavailable
from shared.logs import current_traceparent
from shared.settings import Settings

Upstream = ASGIApp | str
"""Where a service is: its application in this process, or its base URL."""

DEADLINE_SECONDS = 2.0
CONNECT_SECONDS = 1.0
_BY_STATUS = {problem.status: problem for problem in Problem.__subclasses__()}


class ServiceClient:
    """Calls service ``callee`` as ``caller``. One per pair and process; ``close`` it in the end."""

    def __init__(self, settings: Settings, *, caller: str, callee: str, upstream: Upstream) -> None:
        self.callee = callee
        self._signer = IdentitySigner(settings.derive_key, caller)
        self._client = httpx.AsyncClient(
            transport=_transport(upstream),
            base_url=upstream if isinstance(upstream, str) else f"http://{callee}",
            timeout=httpx.Timeout(DEADLINE_SECONDS, connect=CONNECT_SECONDS),
            trust_env=False,
            follow_redirects=False,
        )
        self._running: set[asyncio.Task[httpx.Response]] = set()

    async def close(self) -> None:
        """Close the connections; calls that outlived their deadline are cancelled first."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._client.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        principal: Principal,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> httpx.Response:
        """The answer to one request made for ``principal``, once its status says success.

        Raises the problem that was answered (``NotFound``, ``Conflict``, …, with its code and detail), and
        ``ServiceUnavailable`` (``upstream_unavailable``) when there is no answer within ``deadline`` seconds.
        """
        sent = httpx.Headers({**(headers or {})})
        identity = self._signer.sign(principal, self.callee, time.time())
        sent[IDENTITY_HEADER.decode()] = identity.decode()
        trace = current_traceparent() or principal.traceparent
        if trace:
            sent["traceparent"] = trace
        request = self._client.build_request(method, path, params=params, json=json, headers=sent, timeout=deadline)
        response = await self._within(deadline, request)
        if response.is_success:
            return response
        raise _problem(self.callee, response)

    async def _within(self, deadline: float, request: httpx.Request) -> httpx.Response:
        # Not asyncio.timeout: an application in this process that is cancelled rolls back first, and the
        # caller would wait for that too.
        task = asyncio.ensure_future(self._client.send(request))
        self._running.add(task)
        task.add_done_callback(self._ended)
        try:
            done, _ = await asyncio.wait({task}, timeout=deadline)
            if done:
                return task.result()
        except httpx.HTTPError as error:
            raise self._unavailable(f"could not be reached ({type(error).__name__})") from error
        finally:
            task.cancel()
        raise self._unavailable(f"did not answer within {deadline:g} s")

    def _ended(self, task: asyncio.Task[httpx.Response]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # a late failure was reported as the deadline's

    def _unavailable(self, what: str) -> ServiceUnavailable:
        return ServiceUnavailable(f"The service {self.callee} {what}.", code="upstream_unavailable")


def _transport(upstream: Upstream) -> httpx.AsyncBaseTransport:
    if not isinstance(upstream, str):
        return httpx.ASGITransport(upstream, raise_app_exceptions=False)
    # Loading the machine's certificates costs some 20 ms and a megabyte, so only where they are needed.
    secure = upstream.startswith("https:")
    context = ssl.create_default_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.AsyncHTTPTransport(verify=context, trust_env=False, retries=0)


def _problem(callee: str, response: httpx.Response) -> Problem:
    """The problem a service answered; anything else that is no success is the service's failure."""
    try:
        body = response.json()
        code, detail = str(body["code"]), body.get("detail")
    except (ValueError, KeyError, TypeError):
        return ServiceUnavailable(
            f"The service {callee} answered with status {response.status_code}.", code="upstream_unavailable"
        )
    kind = _BY_STATUS.get(response.status_code, Problem)
    headers = {name: response.headers[name] for name in ("Retry-After", "ETag") if name in response.headers}
    problem = kind(detail, code=code, errors=body.get("errors", ()), headers=headers)
    problem.status = response.status_code
    return problem
