"""The AsyncAPI document and the event schemas: complete, resolvable, true to the envelope and the bus."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import jsonschema
import pytest

from cli.asyncapi import HEADERS, OPTIONAL_HEADERS, document
from cli.compatibility import KNOWN_KEYWORDS
from cli.contracts import FOLDER, event_declarations
from cli.system import SERVICES
from shared.events import PARTITIONS, CloudEvent
from shared.ids import new_id

DOCUMENT = json.loads(json.dumps(document(event_declarations())))
SCHEMAS = sorted(FOLDER.glob("events/*/*.json"))


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for each in node:
            yield from references(each)


def test_every_reference_leads_somewhere() -> None:
    found = list(references(DOCUMENT))
    assert found
    for reference in found:
        file, _, path = reference.partition("#/")
        if file:
            assert (FOLDER / file).is_file(), reference
        target: Any = DOCUMENT
        for part in path.split("/") if path else []:
            target = target[part]


def test_every_event_of_every_service_is_a_message_of_its_channel() -> None:
    for service in SERVICES:
        if service.publishes:
            channel = DOCUMENT["channels"][service.name]
            assert channel["address"] == service.topic
            assert channel["bindings"]["kafka"]["partitions"] == PARTITIONS
            assert set(channel["messages"]) == {path.stem for path in (FOLDER / "events" / service.name).iterdir()}


def test_the_headers_are_those_of_an_event() -> None:
    organization, subject = new_id(), new_id()
    least: dict[str, Any] = {
        "id": new_id(),
        "source": "/guardian/crm",
        "type": "contact.created",
        "subject": subject,
        "time": datetime(2026, 1, 15, 12, tzinfo=UTC),
        "dataschema": "urn:guardian:schema:contact.created:1",
        "organization_id": organization,
        "partitionkey": f"{organization}/{subject}",
        "sequence": 1,
        "data": {},
    }
    optional: dict[str, Any] = dict.fromkeys((name.removeprefix("ce_") for name in OPTIONAL_HEADERS), "x")
    assert {name for name, _ in CloudEvent(**least).to_binary()[0]} == set(HEADERS)
    assert {name for name, _ in CloudEvent(**least, **optional).to_binary()[0]} == {*HEADERS, *OPTIONAL_HEADERS}


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.stem)
def test_a_schema_is_valid_and_so_is_its_example(path: Any) -> None:
    schema = json.loads(path.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    (example,) = schema["examples"]
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    validator.validate(example)


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.stem)
def test_a_schema_says_nothing_that_the_comparison_does_not_understand(path: Any) -> None:
    def keywords(schema: Any) -> Iterator[str]:
        if isinstance(schema, dict):
            yield from schema
            for name in ("properties", "$defs"):
                for inner in schema.get(name, {}).values():
                    yield from keywords(inner)
            for name in ("items", "additionalProperties", "anyOf", "oneOf", "prefixItems"):
                inner = schema.get(name, [])
                for each in inner if isinstance(inner, list) else [inner]:
                    yield from keywords(each)

    assert set(keywords(json.loads(path.read_text()))) <= KNOWN_KEYWORDS
