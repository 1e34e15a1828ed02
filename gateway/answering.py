"""What the client of one request is sent: the service's answer with the gateway's headers, or the gateway's own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gateway.trace import request_id_of
from shared.errors import PROBLEM_JSON, Problem, problem_body

if TYPE_CHECKING:
    from gateway.edge import Pair
    from gateway.pipeline import Pipeline
    from shared.auth import Principal

CLIENT_LEFT = 499


class Answering:
    """The side of an exchange that faces the client."""

    __slots__ = (
        "_extra",
        "_raw_send",
        "answered",
        "complete",
        "core",
        "noted",
        "principal",
        "request_id",
        "scope",
        "secure",
        "started",
        "status",
    )

    def __init__(self, core: Pipeline, scope: Any, send: Any) -> None:
        self.core = core
        self.scope = scope
        self._raw_send = send
        self.started = time.perf_counter()
        self._extra: list[Pair] = []
        self.answered = self.complete = False
        self.status = CLIENT_LEFT
        self.request_id = ""
        self.secure = scope["scheme"] == "https"
        self.principal: Principal | None = None
        self.noted: dict[bytes, bytes] = {}

    def start(self, status: int, headers: Any, forwarded_at: float) -> dict[str, Any]:
        """The message that an answer begins with."""
        return {"type": "http.response.start", "status": status, "headers": self.made(status, headers, forwarded_at)}

    def made(self, status: int, headers: Any, forwarded_at: float) -> list[Pair]:
        """The headers of the answer; ``forwarded_at`` is when a service was asked (0: none was)."""
        core = self.core
        made = core.answers.make(status, headers, self._extra, secure=self.secure, private=self.principal is not None)
        now = time.perf_counter()
        total = now - self.started
        own = forwarded_at - self.started if forwarded_at else total
        made.append((b"x-request-id", self.request_id.encode()))
        made.append((b"server-timing", b"gw;dur=%.2f, total;dur=%.2f" % (own * 1000, total * 1000)))
        if core.cors.enabled:
            made += core.cors.headers(self.noted.get(b"origin"))
        self.answered = True
        self.status = status
        return made

    async def answer(self, status: int, headers: list[Pair], body: bytes) -> None:
        """Answer without a service."""
        if status != 204:
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        cycle = self.scope.get("guardian.cycle")
        if cycle is not None and cycle.more_body:  # which nobody reads then
            cycle.keep_alive = False
        await self._raw_send(self.start(status, headers, 0.0))
        await self._raw_send({"type": "http.response.body", "body": body, "more_body": False})
        self.complete = True

    async def answer_problem(self, problem: Problem) -> None:
        """Answer with a problem."""
        instance = self.scope["path"]
        body = problem_body(problem, instance=instance, request_id=self.request_id or request_id_of(None))
        headers = [(b"content-type", PROBLEM_JSON.encode()), (b"cache-control", b"no-store")]
        headers += [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
        await self.answer(problem.status, headers, body)
