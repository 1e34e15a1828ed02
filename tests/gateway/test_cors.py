from collections.abc import Iterator
from typing import Any

import pytest

APP = "https://app.example"


@pytest.fixture(scope="module")
def shop(start: Any, offline_settings: Any) -> Iterator[Any]:
    with start(offline_settings.model_copy(update={"cors_origins": [APP]})) as front:
        yield front


def test_a_preflight_of_a_named_origin_is_answered_without_a_credential(shop: Any) -> None:
    headers = [f"Origin: {APP}", "Access-Control-Request-Method: DELETE"]
    reply = shop.get("/v1/private", *headers, method="OPTIONS")
    assert reply.status == 204
    assert reply.headers["access-control-allow-origin"] == APP
    assert reply.headers["access-control-allow-credentials"] == "true"
    assert "DELETE" in reply.headers["access-control-allow-methods"]
    assert "Idempotency-Key" in reply.headers["access-control-allow-headers"]
    assert reply.headers["vary"] == "Origin"


def test_other_origins_are_told_nothing(shop: Any) -> None:
    headers = ["Origin: https://evil.example", "Access-Control-Request-Method: DELETE"]
    for reply in (shop.get("/v1/private", *headers, method="OPTIONS"), shop.get("/v1/echo", headers[0])):
        assert "access-control-allow-origin" not in reply.headers
        assert reply.headers["vary"] == "Origin"


def test_answers_and_problems_can_be_read_by_a_named_origin(shop: Any) -> None:
    for path, status in (("/v1/echo", 200), ("/v1/private", 401), ("/nothing", 404)):
        reply = shop.get(path, f"Origin: {APP}")
        assert reply.status == status
        assert reply.headers["access-control-allow-origin"] == APP
        assert {"X-Request-Id", "Signature"} <= set(reply.headers["access-control-expose-headers"].split(", "))


def test_a_named_origin_may_send_unsafe_requests(shop: Any) -> None:
    headers = [f"Origin: {APP}", "Sec-Fetch-Site: cross-site"]
    assert shop.get("/v1/echo", *headers, method="POST").status == 200
    assert shop.get("/v1/echo", "Origin: https://x.example", headers[1], method="POST").status == 403


def test_without_the_setting_there_is_no_cors(front: Any) -> None:
    headers = [f"Origin: {APP}", "Access-Control-Request-Method: GET"]
    reply = front.get("/v1/private", *headers, method="OPTIONS")
    assert reply.status == 401
    assert "access-control-allow-origin" not in reply.headers
    assert "vary" not in reply.headers


def test_every_origin_without_cookies(start: Any, offline_settings: Any) -> None:
    with start(offline_settings.model_copy(update={"cors_origins": ["*"]})) as front:
        reply = front.get("/v1/echo", f"Origin: {APP}")
        assert reply.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in reply.headers
        forged = front.get("/v1/echo", f"Origin: {APP}", "Sec-Fetch-Site: cross-site", method="POST")
        assert forged.status == 403
