"""A service made by the chassis, hosted in the gateway's process."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request
from starlette.responses import StreamingResponse

from gateway.routing import Route
from shared.errors import NotFound
from shared.http.app import create_service
from shared.http.hosting import Hosted

PUBLIC = frozenset({("GET", "/v1/notes/{id}"), ("POST", "/v1/notes"), ("GET", "/v1/notes")})


class Notes:
    """The service, and what happened to it."""

    def __init__(self, settings: Any) -> None:
        self.started = threading.Event()
        self.stopped = threading.Event()
        self.cancelled = threading.Event()
        self.waiting = threading.Event()
        self.app = create_service(
            name="notes", title="Notes", description="For tests", settings=settings, routers=[self._router()]
        )
        inner = self.app.router.lifespan_context

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
            async with inner(app):
                self.started.set()
                yield {"greeting": "hello"}
            self.stopped.set()

        self.app.router.lifespan_context = lifespan

    def _router(self) -> APIRouter:
        router = APIRouter()

        @router.get("/v1/notes")
        async def list_notes() -> StreamingResponse:
            async def lines() -> AsyncIterator[bytes]:
                yield b"one\n"
                self.waiting.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise

            return StreamingResponse(lines(), media_type="text/plain")

        @router.post("/v1/notes")
        async def create_note(request: Request) -> dict[str, Any]:
            body = await request.body()
            return {"size": len(body), "greeting": request.state.greeting}

        @router.get("/v1/notes/{note}")
        async def get_note(note: str) -> dict[str, str]:
            raise NotFound(f"There is no note {note}.")

        return router


@pytest.fixture(scope="module")
def notes(offline_settings: Any) -> Notes:
    return Notes(offline_settings)


@pytest.fixture(scope="module")
def front(start: Any, offline_settings: Any, notes: Notes) -> Iterator[Any]:
    upstreams = {"notes": Hosted(notes.app), "other": Hosted(FastAPI())}
    with start(offline_settings, upstreams=upstreams, routes=[Route("/v1/notes", "notes", PUBLIC)]) as running:
        yield running
    assert notes.stopped.is_set()


def test_the_services_lifespan_runs_and_its_state_reaches_its_requests(front: Any, notes: Notes) -> None:
    assert notes.started.is_set()
    reply = front.get("/v1/notes", method="POST", body=b"hello")
    assert reply.json == {"size": 5, "greeting": "hello"}


def test_the_services_problems_carry_the_gateways_request_id(front: Any) -> None:
    reply = front.get("/v1/notes/7", "X-Request-Id: chosen-by-client")
    assert (reply.status, reply.code) == (404, "not_found")
    assert reply.json["request_id"] == "chosen-by-client" == reply.headers["x-request-id"]


def test_an_identity_for_another_service_is_not_accepted(start: Any, offline_settings: Any) -> None:
    other = Notes(offline_settings)
    upstreams = {"other": Hosted(other.app)}
    with start(offline_settings, upstreams=upstreams, routes=[Route("/v1/notes", "other", PUBLIC)]) as front:
        assert front.get("/v1/notes/1").code == "invalid_identity"


def test_an_endless_answer_streams_outlives_the_deadline_and_ends_with_its_client(
    front: Any, notes: Notes, raw: Any, eventually: Callable[..., None]
) -> None:
    client = front.connect()
    client.sendall(raw("/v1/notes"))
    received = b""
    while b"one\n" not in received:
        received += client.recv(4096)
    eventually(notes.waiting.is_set)
    client.settimeout(0.8)
    with pytest.raises(TimeoutError):  # the deadline of half a second is for the beginning of an answer
        client.recv(1)
    assert not notes.cancelled.is_set()
    client.close()
    eventually(notes.cancelled.is_set)


def test_a_chunked_body_over_the_limit_is_413_although_the_framework_reads_it(front: Any) -> None:
    chunks = b"".join(b"2000\r\n" + b"x" * 0x2000 + b"\r\n" for _ in range(20)) + b"0\r\n\r\n"
    reply = front.send(b"POST /v1/notes HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert (reply.status, reply.code, reply.closed) == (413, "content_too_large", True)
