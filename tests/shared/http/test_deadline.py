"""A service works on nothing for which nobody waits any more."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from shared.auth import IDENTITY_HEADER, TIMEOUT_HEADER, IdentitySigner, Principal
from shared.http.edge import ServiceEdge
from shared.ids import NIL
from shared.settings import Settings

WORK_SECONDS = 0.3


class Work:
    """An application that takes its time before its answer, and again within it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        self.done.append("begun")
        await asyncio.sleep(WORK_SECONDS)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(WORK_SECONDS)
        await send({"type": "http.response.body", "body": b"done"})
        self.done.append("ended")


@pytest.mark.parametrize(
    ("patience", "status", "done"),
    [
        (None, 200, ["begun", "ended"]), (b"10000", 200, ["begun", "ended"]), (b"x", 200, ["begun", "ended"]),
        (b"450", 200, ["begun", "ended"]), (b"100", 503, ["begun"]), (b"49", 503, []), (b"0", 503, []),
    ],
)  # fmt: skip
async def test_what_comes_too_late_is_not_done(patience: bytes | None, status: int, done: list[str]) -> None:
    settings, work, sent = Settings(), Work(), []
    edge = ServiceEdge(work, service="crm", derive_key=settings.derive_key, callers=["gateway"])
    identity = IdentitySigner(settings.derive_key, "gateway").sign(
        Principal(NIL, "anonymous", "anonymous"), "crm", time.time()
    )
    headers = [(IDENTITY_HEADER, identity), *([] if patience is None else [(TIMEOUT_HEADER, patience)])]
    scope = {"type": "http", "method": "GET", "path": "/v1/things", "headers": headers, "query_string": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    await edge(scope, receive, send)
    assert sent[0]["status"] == status
    assert work.done == done
    if status == 503:
        assert b'"code":"deadline_exceeded"' in b"".join(each.get("body", b"") for each in sent)
        assert (b"retry-after", b"2") in sent[0]["headers"]
