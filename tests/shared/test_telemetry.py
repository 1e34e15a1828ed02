"""Sampled requests make spans of their service's provider; unsampled ones make none."""

import time

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared import telemetry
from shared.settings import Settings


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


async def _call(app: FastAPI, traceparent: str | None) -> None:
    headers = {"traceparent": traceparent} if traceparent else {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/hello", headers=headers)).status_code == 200


async def test_only_sampled_requests_make_spans(exporter: InMemorySpanExporter) -> None:
    app = FastAPI()
    name = f"telemetry-{time.monotonic_ns()}"

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    telemetry.instrument(app, name, Settings())
    telemetry.provider(name, Settings()).add_span_processor(SimpleSpanProcessor(exporter))
    trace = "0af7651916cd43dd8448eb211c80319c"
    await _call(app, None)
    await _call(app, f"00-{trace}-b7ad6b7169203331-00")
    assert exporter.get_finished_spans() == ()
    await _call(app, f"00-{trace}-b7ad6b7169203331-01")
    spans = exporter.get_finished_spans()
    assert len(spans) == 1, "receive and send have no spans of their own"
    assert f"{spans[0].context.trace_id:032x}" == trace
    assert spans[0].resource.attributes["service.name"] == name
