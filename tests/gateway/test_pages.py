import asyncio
import gzip
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.pages import welcome
from gateway.routing import Route, RoutingTable
from shared.settings import Settings


def test_the_welcome_page_says_what_runs_and_how_to_begin(start: Any, offline_settings: Any) -> None:
    routes = [Route("/v1/contacts", "echo"), Route("/v1/auth", "echo", frozenset({("POST", "/v1/auth/sign-in")}))]
    with start(offline_settings, routes=routes, sign_in=("POST", "/v1/auth/sign-in")) as front:
        page = front.get("/").body.decode()
    assert "<code>/v1/auth</code> <code>/v1/contacts</code>" in page
    assert "curl http://127.0.0.1:8080/v1/contacts" in page
    assert "curl -X POST http://127.0.0.1:8080/v1/auth/sign-in" in page
    assert "An administrator of your organisation makes keys" in page


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "keeps it in <code>/srv/ada &amp; co/demo.json</code>."),
        ({"home": Path(".guardian")}, "keeps it in <code>.guardian/demo.json</code>."),
        ({"host": "0.0.0.0"}, "keeps it in <code>demo.json</code>, in the folder <code>GUARDIAN_HOME</code>."),
        ({"public_url": "https://crm.example"}, "in the folder <code>GUARDIAN_HOME</code>."),
        ({"trusted_proxies": ["127.0.0.1"]}, "in the folder <code>GUARDIAN_HOME</code>."),
        ({"demo": False}, "An administrator of your organisation makes keys"),
        ({"environment": "production"}, "An administrator of your organisation makes keys"),
    ],
)  # fmt: skip
def test_the_welcome_page_says_where_the_demo_key_is(offline_settings: Settings, settings: Any, says: str) -> None:
    there = {"environment": "development", "home": Path("/srv/ada & co"), **settings}
    page: Any = welcome(offline_settings.model_copy(update=there), RoutingTable([Route("/v1/contacts", "crm")]), None)
    text = asyncio.run(page(None))[2].decode()
    assert says in text
    assert ("ada" in text) == (settings == {})


def test_the_welcome_page_stands_alone(front: Any) -> None:
    reply = front.get("/")
    page = reply.body.decode()
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert 'href="/docs"' in page
    assert "<code>/v1/echo</code>" in page
    assert "Bearer gdn_" in page
    assert "$" not in page
    _no_inline_code(page)


def test_pages_load_nothing_from_elsewhere_and_what_they_load_is_there(front: Any) -> None:
    for path in ("/", "/docs"):
        page = front.get(path).body.decode()
        _no_inline_code(page)
        for address in re.findall(r'(?:src|href)="([^"]+)"', page):
            assert address.startswith("/")
            assert front.get(address).status in (200, 404 if address == "/openapi.json" else 200)


def _no_inline_code(page: str) -> None:
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert "<style" not in page
    assert not re.search(r'\s(style|on\w+)="', page)
    assert "javascript:" not in page


def test_the_api_reference_is_served_from_this_machine(front: Any) -> None:
    policy = front.get("/docs").headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "http" not in policy
    script = front.get("/assets/swagger-ui-bundle.js", "Accept-Encoding: gzip, br")
    assert script.headers["content-encoding"] == "gzip"
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    plain = front.get("/assets/swagger-ui-bundle.js")
    assert gzip.decompress(script.body) == plain.body
    assert b"SwaggerUIBundle" in plain.body
    again = front.get("/assets/swagger-ui-bundle.js", f"If-None-Match: {plain.headers['etag']}")
    assert (again.status, again.body) == (304, b"")


def test_the_contract_is_served_as_json(start: Any, offline_settings: Any) -> None:
    document = {"openapi": "3.1.0", "paths": {}}
    with start(offline_settings, openapi=document) as front:
        assert front.get("/openapi.json").json == document


def test_without_a_contract_it_says_so(start: Any, offline_settings: Any, monkeypatch: Any, tmp_path: Any) -> None:
    from gateway import pages

    monkeypatch.setattr(pages, "CONTRACT", tmp_path / "openapi.yaml")
    with start(offline_settings) as fresh:
        assert fresh.get("/openapi.json").code == "not_found"
        (tmp_path / "openapi.yaml").write_text("openapi: 3.1.0\n")
        assert fresh.get("/openapi.json").json == {"openapi": "3.1.0"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_pages_are_only_read(front: Any, method: str) -> None:
    reply = front.get("/", method=method)
    assert (reply.status, reply.code) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "GET, HEAD"


def test_probes(front: Any) -> None:
    assert front.get("/livez").json == {"status": "ok"}
    assert front.get("/readyz").json == {"status": "ok", "credentials": "database lost"}


def test_a_draining_gateway_is_alive_but_not_ready(start: Any, offline_settings: Any) -> None:
    with start(offline_settings) as front:
        front.gateway.drain()
        assert front.get("/livez").status == 200
        reply = front.get("/readyz")
        assert (reply.status, reply.code) == (503, "service_unavailable")
        assert "retry-after" in reply.headers


def test_figures_are_shown_to_this_machine_only(start: Any, offline_settings: Any) -> None:
    with start(offline_settings) as front:
        reply = front.get("/metrics")
        assert reply.status == 200
        assert b"guardian_gateway_requests_total" in reply.body
        assert b"guardian_gateway_listening 0.0" in reply.body
        hidden = front.get("/metrics", "X-Forwarded-For: 9.9.9.9")
        assert (hidden.status, hidden.code) == (403, "metrics_not_public")
    trusting = offline_settings.model_copy(update={"trusted_proxies": ["127.0.0.1"]})
    with start(trusting) as front:
        assert front.get("/metrics").status == 200
        assert front.get("/metrics", "X-Forwarded-For: 9.9.9.9").status == 403
    with start(trusting.model_copy(update={"metrics_public": True})) as front:
        assert front.get("/metrics", "X-Forwarded-For: 9.9.9.9").status == 200
