"""Structured logs: JSON in production, readable on a terminal, with the request, trace and organisation.

Secrets never reach a log: values under telling names and credentials of known shapes are replaced
(tests plant secrets in every input and search the output for them).
"""

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import orjson
import structlog

from shared.auth.principal import Principal
from shared.settings import Settings

REDACTED = "[redacted]"
_SECRET_NAMES = re.compile(
    r"pass(word|wd)?$|secret|token|authorization|cookie|api_?key$|credential|signature|guardian-identity|dsn",
    re.IGNORECASE,
)
_SECRET_SHAPES = re.compile(
    r"gdn_(?:live|test)_[0-9A-Za-z]{10}_[0-9A-Za-z]+"  # our API keys
    r"|(?i:bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"
    r"|v1\.[a-z]+\.[A-Za-z0-9_=-]{16,}\.[A-Za-z0-9_=-]{16,}"  # internal identities
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"  # user:password in a URL
    r"|guardian_session=[^;\s]+"
    r"|\$argon2id?\$[^\s\"']+"
)

_request: ContextVar[tuple[Principal, str | None] | None] = ContextVar("guardian_request", default=None)


@contextmanager
def request_context(principal: Principal, traceparent: str | None) -> Iterator[None]:
    """Every line logged inside the block carries the request's id, trace and organisation."""
    token = _request.set((principal, traceparent))
    try:
        yield
    finally:
        _request.reset(token)


def current_traceparent() -> str | None:
    """The W3C traceparent of the request or event being handled."""
    context = _request.get()
    return context[1] if context else None


def redact(value: Any, name: str = "") -> Any:
    """``value`` without secrets; recurses into mappings and sequences."""
    if name and _SECRET_NAMES.search(name):
        return REDACTED
    if isinstance(value, str):
        return _SECRET_SHAPES.sub(REDACTED, value)
    if isinstance(value, bytes):
        return _SECRET_SHAPES.sub(REDACTED, value.decode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return {key: redact(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item) for item in value]
    return value


def _add_context(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    context = _request.get()
    if context:
        principal, traceparent = context
        event.setdefault("request_id", principal.request_id)
        event.setdefault("organization_id", str(principal.organization_id))
        if traceparent:
            event.setdefault("trace_id", traceparent[3:35])
    return event


def _redact_event(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {key: redact(value, key) for key, value in event.items()}


def _dump(event: Any, **_options: Any) -> str:
    return orjson.dumps(event, default=str).decode()


def configure(settings: Settings) -> None:
    """Send structlog's and the standard library's records through one chain to standard error."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    shared_chain: list[structlog.typing.Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_context,
    ]
    # Tracebacks are rendered before redaction, so that a secret inside an exception's text goes too.
    tail: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        _redact_event,
        structlog.processors.JSONRenderer(serializer=_dump) if as_json else structlog.dev.ConsoleRenderer(),
    ]
    handler = logging.StreamHandler()
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=tail, foreign_pre_chain=shared_chain))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for chatty in ("alembic", "uvicorn", "httpx"):  # what they say at INFO, our own lines say better
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelName(settings.log_level)))
    structlog.configure(
        processors=[*shared_chain, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
