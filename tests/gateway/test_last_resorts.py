"""Our own failures: each still gives a problem or a visibly broken connection, and says nothing of itself."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def broken(start: Any, offline_settings: Any) -> Any:
    with start(offline_settings) as front:
        yield front


def test_a_failure_inside_the_pipeline_is_a_500_with_its_request_id(broken: Any, monkeypatch: Any) -> None:
    def fail(_path: str) -> None:
        raise ValueError("secret of the gateway")

    monkeypatch.setattr(broken.gateway._pipeline.table, "match", fail)
    reply = broken.get("/v1/echo", "X-Request-Id: findable-id")
    assert (reply.status, reply.code) == (500, "internal_error")
    assert reply.json["request_id"] == "findable-id"
    assert b"secret" not in reply.body


@pytest.mark.parametrize("answer_first", [False, True])
def test_a_failure_around_the_pipeline_ends_the_connection(broken: Any, answer_first: bool) -> None:
    async def pipeline(_scope: Any, _receive: Any, send: Any) -> None:
        if answer_first:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("secret of the gateway")

    broken.gateway._pipeline = pipeline
    reply = broken.get()
    assert reply.closed
    if answer_first:
        assert not reply.complete
    else:
        assert (reply.status, reply.code) == (500, "internal_error")
        assert b"secret" not in reply.body


def test_an_application_that_forgets_to_answer_is_a_500(broken: Any) -> None:
    async def pipeline(_scope: Any, _receive: Any, _send: Any) -> None:
        """Forget."""

    broken.gateway._pipeline = pipeline
    assert broken.get().status == 500


def test_stopping_does_not_wait_for_ever(start: Any, offline_settings: Any, raw: Any, read: Any) -> None:
    settings = offline_settings.model_copy(update={"request_timeout_seconds": 60.0})
    with start(settings) as front:
        front.server.config.timeout_graceful_shutdown = 0.2
        client = front.connect()
        client.sendall(raw("/v1/echo?do=hang"))
        assert front.echo.entered.wait(5)
        front.server.should_exit = True
        reply = read(client)
        assert (reply.status, reply.closed) == (500, True)
        assert front.echo.cancelled.wait(5)


def test_a_broken_body_of_a_queued_request_breaks_the_connection(
    start: Any, offline_settings: Any, limits: Any, eventually: Callable[..., None]
) -> None:
    settings = offline_settings.model_copy(update={"request_timeout_seconds": 60.0})
    with start(settings, limits) as front:
        client = front.connect()
        client.sendall(
            b"GET /v1/echo?do=hang HTTP/1.1\r\nHost: a\r\n\r\n"
            b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"
        )
        assert _drained(client) == b""
        eventually(front.echo.cancelled.is_set)


def _drained(client: Any) -> bytes:
    try:
        return bytes(client.recv(65536))
    except ConnectionError:
        return b""
