"""Events as Kafka records: CloudEvents in binary mode; structured mode is understood too."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from shared.events.bus import Received
from shared.events.envelope import STRUCTURED_CONTENT_TYPE, CloudEvent, InvalidEvent

_KEY_LENGTH = 256
_UNREADABLE = "unreadable:"
"""What the key of an entry begins with that is nobody's: no real key does."""
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_STRUCTURED = STRUCTURED_CONTENT_TYPE.encode()


def received(topic: str, record: Any) -> Received:
    """What a consumer gets of a record, whoever wrote it."""
    headers = record.headers
    place = (topic, record.partition, record.offset)
    recorded_at = _moment(record.timestamp)
    try:
        event = _event(headers, record.value)
    except InvalidEvent as error:
        key = _real_key(headers, record.key) or f"{_UNREADABLE}{'/'.join(map(str, place))}/{_text(record.key)}"
        body = record.value or b""
        return Received(*place, key[:_KEY_LENGTH], None, body, str(error), recorded_at, _traceparent(headers))
    return Received(*place, event.partitionkey, event, recorded_at=recorded_at)


def _event(headers: tuple[tuple[str, bytes | None], ...], value: bytes | None) -> CloudEvent:
    if value is None:
        raise InvalidEvent("the record has no value")
    try:
        return _storable(CloudEvent.from_binary(headers, value))
    except InvalidEvent:
        if any(name == "content-type" and (content or b"").startswith(_STRUCTURED) for name, content in headers):
            return _storable(CloudEvent.from_json(value))
        raise


def _storable(event: CloudEvent) -> CloudEvent:
    """Refuses what no index of PostgreSQL takes: it could not even become a dead letter."""
    if len(event.partitionkey) > _KEY_LENGTH:
        raise InvalidEvent(f"partitionkey has more than {_KEY_LENGTH} characters")
    return event


def _real_key(headers: tuple[tuple[str, bytes | None], ...], key: bytes | None) -> str | None:
    """The key whose later events wait for an entry that cannot be read; None where it may be nobody's.

    Its publisher must have said whose it is, all three times the same. A key alone (a tombstone of another tool,
    garbage) is no reason to park a record.
    """
    values = dict(headers)
    tenant, subject = values.get("ce_tenantid") or b"", values.get("ce_subject") or b""
    try:
        real = f"{UUID(tenant.decode())}/{UUID(subject.decode())}"
    except ValueError:
        return None
    return real if real.encode() == key == values.get("ce_partitionkey") else None


def _text(key: bytes | None) -> str:
    return (key or b"").decode("utf-8", "replace").replace("\0", "�")


def _moment(milliseconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _traceparent(headers: tuple[tuple[str, bytes | None], ...]) -> str | None:
    for name, content in headers:
        if name in ("ce_traceparent", "traceparent") and content is not None:
            text = content.decode("ascii", "replace")
            if _TRACEPARENT.fullmatch(text):
                return text
    return None
