"""The envelope of every event: CloudEvents 1.0, in binary mode (headers) and structured mode (JSON).

``id`` and ``subject`` are UUIDs, ``partitionkey`` is ``<organisation>/<entity>``, ``sequence`` is the
entity's version. The extensions carry their registered names; ``tenantid`` and ``dataregion`` are ours.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any, Self
from uuid import UUID

import orjson

MAX_EVENT_BYTES = 512 * 1024
"""Largest structured form that may be published; an event is a fact, not a file."""

CONTENT_TYPE = "application/json"
STRUCTURED_CONTENT_TYPE = "application/cloudevents+json"
_SCHEMA_PREFIX = "urn:guardian:schema:"
_OPTIONAL = ("traceparent", "tracestate", "correlationid", "causationid", "authtype", "authid", "dataregion")
_REQUIRED = ("id", "source", "type", "subject", "time", "dataschema", "partitionkey", "sequence", "tenantid")
_STRINGS = (*_REQUIRED, "datacontenttype", *_OPTIONAL)
_CONTENT_HEADER = ("content-type", CONTENT_TYPE.encode())
_UUID_LENGTH = 36
_BRACKETS = 200
"""With no more of them in a body it is not nested deeper than can be written again."""


class InvalidEvent(Exception):
    """The event cannot be understood and never will be: it goes straight to the dead letters."""


def schema_uri(event_type: str, version: int) -> str:
    """The ``dataschema`` of one version of an event type."""
    return f"{_SCHEMA_PREFIX}{event_type}:{version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """One fact, as it travels. ``data`` is the payload as plain JSON values."""

    id: UUID
    source: str
    type: str
    subject: UUID
    time: datetime
    dataschema: str
    organization_id: UUID
    partitionkey: str
    sequence: int
    data: dict[str, Any]
    traceparent: str | None = None
    tracestate: str | None = None
    correlationid: str | None = None
    causationid: str | None = None
    authtype: str | None = None
    authid: str | None = None
    dataregion: str | None = None

    @property
    def version(self) -> int:
        """The version of the payload's schema."""
        return int(self.dataschema.rpartition(":")[2])

    @property
    def trace_id(self) -> str | None:
        """The 32 hex digits of the trace, or None."""
        return self.traceparent[3:35] if self.traceparent else None

    def attributes(self) -> dict[str, str]:
        """Every context attribute in its string form; absent ones are left out."""
        values = {"specversion": "1.0", "datacontenttype": CONTENT_TYPE}
        values.update(zip(_REQUIRED, self._required(), strict=True))
        for name in _OPTIONAL:
            value = getattr(self, name)
            if value is not None:
                values[name] = value
        return values

    def _required(self) -> tuple[str, ...]:
        return (
            str(self.id),
            self.source,
            self.type,
            str(self.subject),
            self.time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            self.dataschema,
            self.partitionkey,
            # A string whose lexical order is the numeric order, as the extension's specification asks.
            f"{self.sequence:020d}",
            str(self.organization_id),
        )

    def to_json(self) -> bytes:
        """The structured form: one JSON object."""
        return orjson.dumps({**self.attributes(), "data": self.data})

    def to_binary(self, prefix: str = "ce_") -> tuple[list[tuple[str, bytes]], bytes]:
        """The binary form: headers and body. ``ce_`` is Kafka's prefix, ``ce-`` is HTTP's."""
        version, required, optional = _headers(prefix)
        headers = [_CONTENT_HEADER, version]
        headers += [(name, value.encode()) for name, value in zip(required, self._required(), strict=True)]
        for header, name in optional:
            value = getattr(self, name)
            if value is not None:
                headers.append((header, value.encode()))
        return headers, orjson.dumps(self.data)

    @classmethod
    def from_json(cls, body: bytes | str, *, limit: int | None = MAX_EVENT_BYTES) -> Self:
        """Read the structured form, of ``limit`` bytes at most; raises ``InvalidEvent``."""
        if limit is not None and len(body) > limit:
            raise InvalidEvent(f"the event has {len(body)} bytes, more than {limit}")
        try:
            values = orjson.loads(body)
            if isinstance(body, bytes):  # text is what we wrote
                _writable(body, values)
        except (orjson.JSONDecodeError, orjson.JSONEncodeError) as error:
            raise InvalidEvent(f"not JSON: {error}") from None
        if not isinstance(values, dict):
            raise InvalidEvent("not a JSON object")
        for name in _STRINGS:
            if name in values and not isinstance(values[name], str):
                raise InvalidEvent(f"{name} is not a string")
            if "\0" in values.get(name, ""):
                raise InvalidEvent(f"{name} has a NUL character")
        return cls._from_values(values, values.get("data"))

    @classmethod
    def from_binary(cls, headers: Iterable[tuple[str, bytes | None]], body: bytes, prefix: str = "ce_") -> Self:
        """Read the binary form; raises ``InvalidEvent``. A header without a value counts as absent."""
        if len(body) > MAX_EVENT_BYTES:
            raise InvalidEvent(f"the event has {len(body)} bytes, more than {MAX_EVENT_BYTES}")
        try:
            known = _known(prefix)
            values = {known[name]: value.decode() for name, value in headers if value and name in known}
            data = orjson.loads(body)
            _writable(body, {"data": data})
        except (UnicodeDecodeError, orjson.JSONDecodeError, orjson.JSONEncodeError) as error:
            raise InvalidEvent(f"not a CloudEvent in binary mode: {error}") from None
        if "\0" in "".join(values.values()):
            raise InvalidEvent("an attribute has a NUL character")
        return cls._from_values(values, data)

    @classmethod
    def _from_values(cls, values: Mapping[str, Any], data: Any) -> Self:
        if values.get("specversion") != "1.0":
            raise InvalidEvent(f"specversion is {values.get('specversion')!r}, not '1.0'")
        if not isinstance(data, dict):
            raise InvalidEvent("data is not a JSON object")
        get = values.get
        try:
            organization, prefix = _organization(values["tenantid"])
            subject = UUID(values["subject"])
            event = cls(
                id=UUID(values["id"]),
                source=values["source"],
                type=values["type"],
                subject=subject,
                time=_time(values["time"]),
                dataschema=values["dataschema"],
                organization_id=organization,
                partitionkey=values["partitionkey"],
                sequence=int(values["sequence"]),
                data=data,
                traceparent=get("traceparent"),
                tracestate=get("tracestate"),
                correlationid=get("correlationid"),
                causationid=get("causationid"),
                authtype=get("authtype"),
                authid=get("authid"),
                dataregion=get("dataregion"),
            )
            event.version  # noqa: B018 (raises when the schema's version is no number)
        except KeyError as error:
            raise InvalidEvent(f"{error.args[0]} is missing") from None
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidEvent(f"an attribute is malformed: {error}") from None
        # A key of somebody else would park his record and break its order.
        if event.partitionkey != prefix + str(subject):
            raise InvalidEvent("partitionkey is not <tenantid>/<subject>")
        return event


@dataclass(frozen=True, slots=True)
class Sealed:
    """An event as it lies in the outbox: passed on without being read."""

    partitionkey: str
    partition: int
    envelope: str

    def to_binary(self) -> tuple[list[tuple[str, bytes]], bytes]:
        """The binary form for Kafka, as ``CloudEvent.to_binary`` makes it."""
        values = orjson.loads(self.envelope)
        data = values.pop("data")
        headers = [("ce_" + name, value.encode()) for name, value in values.items() if name != "datacontenttype"]
        return [_CONTENT_HEADER, *headers], orjson.dumps(data)


@cache
def _headers(prefix: str) -> tuple[tuple[str, bytes], list[str], list[tuple[str, str]]]:
    """The header of ``specversion``, the names of the required ones, and of the optional ones with their attributes."""
    optional = [(prefix + name, name) for name in _OPTIONAL]
    return (prefix + "specversion", b"1.0"), [prefix + name for name in _REQUIRED], optional


@cache
def _known(prefix: str) -> dict[str, str]:
    """The attributes we read, by their headers."""
    return {prefix + name: name for name in ("specversion", *_STRINGS)}


def _writable(body: bytes, value: Any) -> None:
    """Raises ``JSONEncodeError`` for what is nested so deeply that it can be read and not written."""
    if body.count(b"{") + body.count(b"[") > _BRACKETS:
        orjson.dumps(value)


def _time(text: str) -> datetime:
    """A moment in UTC; one that UTC has no year for raises ``OverflowError``."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("time has no offset")
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


@lru_cache(4096)  # few organisations have most events
def _organization(text: str) -> tuple[UUID, str]:
    """The organisation, and what the keys of its events begin with."""
    if len(text) != _UUID_LENGTH:
        raise ValueError(f"tenantid has {len(text)} characters")  # it is kept: no more of it than we know
    organization = UUID(text)
    return organization, f"{organization}/"
