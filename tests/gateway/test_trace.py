import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.trace import Tracing, parse_traceparent, request_id_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"00",
        PARENT.upper().encode(),
        b"ff" + PARENT[2:].encode(),
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        PARENT.encode() + b"-extra",
        PARENT.encode() + b" ",
        PARENT.replace("-", "_").encode(),
        f"{PARENT}, {PARENT}".encode(),
        b"\xff" * 55,
    ],
)
def test_invalid_traceparents_are_ignored(header: bytes) -> None:
    assert parse_traceparent(header) is None


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert parse_traceparent(f"cc-{TRACE}-00f067aa0ba902b7-01-more".encode()) == (TRACE, "00f067aa0ba902b7")


@given(st.binary(max_size=300))
def test_request_ids_are_always_safe_to_send_on(header: bytes) -> None:
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{7,127}", request_id_of(header))


def test_the_clients_trace_goes_on_but_its_wish_to_be_sampled_does_not(front: Any) -> None:
    front.get("/v1/echo", f"Traceparent: {PARENT}", "Tracestate: vendor=1", "Baggage: user=1")
    (sent,) = front.header("traceparent")
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-00", sent)
    assert sent.split("-")[2] != "00f067aa0ba902b7"
    assert front.header("tracestate") == ["vendor=1"]
    assert front.header("baggage") == []


@pytest.mark.parametrize("headers", [[], ["Traceparent: nonsense"], [f"Traceparent: {PARENT}"] * 2])
def test_otherwise_a_new_trace_begins_without_the_clients_state(front: Any, headers: list[str]) -> None:
    front.get("/v1/echo", *headers, "Tracestate: vendor=1")
    (sent,) = front.header("traceparent")
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", sent)
    assert TRACE not in sent
    assert front.header("tracestate") == []


def test_an_endless_tracestate_is_dropped(front: Any) -> None:
    front.get("/v1/echo", f"Traceparent: {PARENT}", f"Tracestate: vendor={'x' * 600}")
    assert front.header("tracestate") == []


def test_sampled_requests_make_one_span_whose_ids_the_service_sees(offline_settings: Any) -> None:
    exporter = InMemorySpanExporter()
    settings = offline_settings.model_copy(update={"trace_sample_ratio": 1.0})
    tracing = Tracing(settings, SimpleSpanProcessor(exporter))
    for header in (PARENT.encode(), None):
        trace = tracing.begin(header, None)
        trace.finish(503, "crm", "GET")
        span = exporter.get_finished_spans()[-1]
        assert trace.traceparent == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01".encode()
        assert span.attributes is not None
        assert span.attributes["http.response.status_code"] == 503
        assert span.name == "GET crm"
        assert not span.status.is_ok
        if header is None:
            assert span.parent is None
        else:
            assert f"{span.context.trace_id:032x}" == TRACE
            assert span.parent is not None
            assert f"{span.parent.span_id:016x}" == "00f067aa0ba902b7"
    tracing.close()


def test_the_share_of_sampled_requests_is_the_setting_and_zero_without_a_collector(offline_settings: Any) -> None:
    settings = offline_settings.model_copy(update={"trace_sample_ratio": 0.3})
    tracing = Tracing(settings, SimpleSpanProcessor(InMemorySpanExporter()))
    sampled = sum(tracing.begin(None, None).traceparent.endswith(b"-01") for _ in range(2000))
    assert 400 < sampled < 800
    tracing.close()
    silent = Tracing(settings)
    assert not any(silent.begin(None, None).traceparent.endswith(b"-01") for _ in range(2000))


def test_a_collector_is_used_when_one_is_set(offline_settings: Any) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    received: list[str] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            received.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Keep quiet."""

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = Thread(target=collector.serve_forever)
        thread.start()
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        settings = offline_settings.model_copy(update={"otlp_endpoint": endpoint, "trace_sample_ratio": 1.0})
        tracing = Tracing(settings)
        tracing.begin(None, None).finish(200, "crm", "GET")
        tracing.close()
        collector.shutdown()
        thread.join()
    assert received == ["/v1/traces"]


def test_the_pipeline_finishes_spans(start: Any, offline_settings: Any) -> None:
    exporter = InMemorySpanExporter()
    with start(offline_settings.model_copy(update={"trace_sample_ratio": 1.0})) as front:
        front.gateway._pipeline.tracing = Tracing(
            offline_settings.model_copy(update={"trace_sample_ratio": 1.0}), SimpleSpanProcessor(exporter)
        )
        front.get("/v1/echo")
        front.get("/v1/echo?do=raise")
        (sent,) = front.header("traceparent")
    spans = exporter.get_finished_spans()
    assert [(span.attributes or {})["http.response.status_code"] for span in spans] == [200, 500]
    assert sent.endswith("-01")
