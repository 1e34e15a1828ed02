"""The AsyncAPI 3.0 document of every event, made from the services' declarations."""

from collections.abc import Iterable
from typing import Any

from cli.system import Service
from shared.events.registry import Declaration

_HEADERS = {
    "ce_id": "the event's id; with ce_source unique",
    "ce_source": "/guardian/<service>",
    "ce_type": "the event's type",
    "ce_subject": "the entity's id",
    "ce_time": "when it happened, RFC 3339",
    "ce_dataschema": "the payload's schema and version",
    "ce_partitionkey": "<organisation>/<entity>; also the record's key, so an entity's events keep their order",
    "ce_sequence": "the entity's version",
    "ce_tenantid": "the organisation",
    "ce_traceparent": "W3C trace context of the request that caused it",
}


def document(events: Iterable[tuple[Service, Declaration]]) -> dict[str, Any]:
    """The whole document: a channel per service, a message per event version."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for service, declaration in events:
        name = f"{declaration.type}.v{declaration.version}"
        messages[name] = _message(declaration, f"events/{service.name}/{name}.json")
        channel = channels.setdefault(service.name, {"address": service.topic, "messages": {}})
        channel["messages"][name] = {"$ref": f"#/components/messages/{name}"}
        operations.setdefault(
            f"{service.name}.publish", {"action": "send", "channel": {"$ref": f"#/channels/{service.name}"}}
        )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Guardian events",
            "version": "1",
            "description": "CloudEvents 1.0 in binary mode. A version changes by additions only.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "messageTraits": {"cloudEvent": _cloud_event_trait()}},
    }


def _message(declaration: Declaration, schema: str) -> dict[str, Any]:
    summary = (declaration.payload.__doc__ or "").strip().splitlines()[0]
    return {
        "name": declaration.type,
        "title": declaration.type,
        "summary": summary,
        "contentType": "application/json",
        "traits": [{"$ref": "#/components/messageTraits/cloudEvent"}],
        "payload": {"$ref": schema},
    }


def _cloud_event_trait() -> dict[str, Any]:
    properties = {name: {"type": "string", "description": text} for name, text in _HEADERS.items()}
    return {
        "headers": {"type": "object", "properties": properties, "required": sorted(set(_HEADERS) - {"ce_traceparent"})}
    }
