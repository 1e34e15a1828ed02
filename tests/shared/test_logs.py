"""Planted secrets in every kind of input: none may reach the log."""

import json
import logging
import sys
from collections.abc import Iterator
from io import StringIO

import pytest
import structlog

from shared import logs
from shared.auth import IdentitySigner, Principal
from shared.auth.api_key import generate
from shared.ids import new_id
from shared.settings import Settings


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Iterator[StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure(Settings(log_format="json"))
    yield stream
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def _lines(output: StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_secrets_are_redacted(output: StringIO) -> None:
    principal = Principal(new_id(), "user", str(new_id()))
    hidden = {
        "key": generate("live").text,
        "bearer": "abcdefgh.planted.12345",
        "identity": IdentitySigner(Settings().derive_key, "gateway").sign(principal, "crm", 0).decode(),
        "dsn": "svc_crm:planted-password",
        "session": "planted-session-value",
        "hash": "$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$planted",
    }
    log = structlog.get_logger("test")
    log.info("request", headers={"Authorization": f"Bearer {hidden['bearer']}", "x": hidden["key"]})
    log.info(f"connecting to postgresql://{hidden['dsn']}@localhost/x with {hidden['identity']}")  # noqa: G004 (careless)
    log.info("body", body={"password": "planted-in-a-field", "nested": [{"api_key": "planted-too"}]})
    log.info("cookie", line=f"guardian_session={hidden['session']}; Path=/", raw=hidden["key"].encode())
    logging.getLogger("library").warning("hash %s of %s", hidden["hash"], hidden["key"])
    try:
        raise RuntimeError(f"failed with {hidden['key']} and Bearer {hidden['bearer']}")
    except RuntimeError:
        log.exception("failed")
    text = output.getvalue()
    assert len(_lines(output)) == 6
    for name, secret in hidden.items():
        assert secret not in text, name
    assert "planted" not in text
    assert text.count(logs.REDACTED) >= 9


def test_lines_carry_request_trace_and_organisation(output: StringIO) -> None:
    principal = Principal(new_id(), "user", str(new_id()), request_id="req-1")
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    with logs.request_context(principal, trace):
        structlog.get_logger("test").info("inside")
        assert logs.current_traceparent() == trace
    structlog.get_logger("test").info("outside")
    inside, outside = _lines(output)
    assert inside["request_id"] == "req-1"
    assert inside["trace_id"] == "a" * 32
    assert inside["organization_id"] == str(principal.organization_id)
    assert "request_id" not in outside
    assert logs.current_traceparent() is None
