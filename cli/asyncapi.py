"""The AsyncAPI 3.1 document of every event, made from the services' declarations."""

from collections.abc import Iterable
from typing import Any

from cli.system import Service
from shared.events import MAX_EVENT_BYTES, PARTITIONS
from shared.events.registry import Declaration
from shared.settings import Settings

HEADERS = {
    "content-type": "application/json",
    "ce_specversion": "1.0",
    "ce_id": "the event's id (UUIDv7): the same in every delivery, which is how you know a repeated one",
    "ce_source": "/guardian/<service>",
    "ce_type": "the event's type, such as contact.created",
    "ce_subject": "the entity's id",
    "ce_time": "when it happened, RFC 3339",
    "ce_dataschema": "urn:guardian:schema:<type>:<version> of the payload",
    "ce_partitionkey": "<organisation>/<entity>; also the record's key, so an entity's events keep their order",
    "ce_sequence": "the entity's version, 20 digits: greater means later",
    "ce_tenantid": "the organisation",
}
OPTIONAL_HEADERS = {
    "ce_traceparent": "W3C trace context of the request that caused it",
    "ce_tracestate": "what belongs to it",
    "ce_correlationid": "the id of the request at the beginning of the chain",
    "ce_causationid": "the id of the event that caused this one",
    "ce_authtype": "what kind of actor did it: app_user, api_key, service_account, system or unauthenticated",
    "ce_authid": "the actor's id",
    "ce_dataregion": "where the organisation's data is kept",
}
_DESCRIPTION = f"""\
What has happened, as CloudEvents 1.0 in binary mode: attributes are headers with the prefix ce_, the body is the payload.

**Order.** The key is <organisation>/<entity>. Events with one key arrive in the order in which they happened, and
ce_sequence says which that is. There is no order between keys.

**Delivery.** At least once: a crash between sending and noting that it was sent sends again. Keep the ce_id of what you
have handled, in the transaction of your effect, and pass over an event you find there.

**Versions.** Within a version fields are only added, never required: pass over fields you do not know. Anything else is
a new version of the schema, published beside the old one. ce_dataschema tells which one you hold.

**Size.** An event has at most {MAX_EVENT_BYTES // 1024} KiB.

docs/guides/events.md shows a subscriber.
"""


def document(events: Iterable[tuple[Service, Declaration]]) -> dict[str, Any]:
    """The whole document: a channel per service, a message per event version."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for service, declaration in events:
        name = f"{declaration.type}.v{declaration.version}"
        messages[name] = _message(declaration, f"events/{service.name}/{name}.json")
        channel = channels.setdefault(service.name, _channel(service))
        channel["messages"][name] = {"$ref": f"#/components/messages/{name}"}
        operations.setdefault(
            f"{service.name}.publish", {"action": "send", "channel": {"$ref": f"#/channels/{service.name}"}}
        )
    return {
        "asyncapi": "3.1.0",
        "info": {"title": "Guardian events", "version": "1", "description": _DESCRIPTION},
        "defaultContentType": "application/json",
        "servers": _SERVERS,
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "messageTraits": {"cloudEvent": _cloud_event_trait()},
            "correlationIds": {"request": {"location": "$message.header#/ce_correlationid"}},
        },
    }


_SERVERS = {
    "kafka": {
        "host": "{bootstrapServers}",
        "protocol": "kafka",
        "description": "Where KAFKA_BOOTSTRAP_SERVERS is set. For everybody: subscribe with a group of your own.",
        "variables": {
            "bootstrapServers": {"default": "127.0.0.1:9092", "description": "the value of KAFKA_BOOTSTRAP_SERVERS"}
        },
        "bindings": {"kafka": {"bindingVersion": "0.5.0"}},
    },
    "postgresql": {
        "host": "{database}",
        "protocol": "postgresql",
        "description": "Otherwise: the table bus.log. For the platform's own services and `guardian events`.",
        "variables": {"database": {"default": "127.0.0.1:5432", "description": "the host of DATABASE_URL"}},
    },
}


def _channel(service: Service) -> dict[str, Any]:
    days = Settings.model_fields["event_retention_days"].default
    return {
        "address": service.topic,
        "description": f"Everything that happened in {service.name}. On Kafka the first part of the address is KAFKA_PREFIX.",
        "messages": {},
        "bindings": {
            "kafka": {
                "topic": service.topic,
                "partitions": PARTITIONS,
                "topicConfiguration": {"cleanup.policy": ["delete"], "retention.ms": days * 86_400_000},
                "bindingVersion": "0.5.0",
            }
        },
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
    properties = {name: {"type": "string", "description": text} for name, text in (HEADERS | OPTIONAL_HEADERS).items()}
    key = {"type": "string", "description": "<organisation>/<entity>, as in ce_partitionkey"}
    return {
        "headers": {"type": "object", "properties": properties, "required": list(HEADERS)},
        "correlationId": {"$ref": "#/components/correlationIds/request"},
        "bindings": {"kafka": {"key": key, "bindingVersion": "0.5.0"}},
    }
