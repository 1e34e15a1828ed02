"""How a service declares what it publishes: ``@event(...)`` on a payload model in its ``events.py``.

The declarations are the source of the JSON Schemas, of the AsyncAPI document and of the examples that
consumers are tested against. A field that can hold personal data is marked with ``PersonalData``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from shared.events.envelope import schema_uri

_TYPE = re.compile(r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$")
PERSONAL_DATA = "x-personal-data"
ENTITY = "x-entity"


class _PersonalData:
    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core), PERSONAL_DATA: True}


PersonalData = _PersonalData()
"""``Annotated[str, PersonalData]``: the field can hold personal data (``x-personal-data`` in the schema)."""


class Event(BaseModel):
    """Base of a payload. Changes within a version are additive only."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Payload = type[Event]


@dataclass(frozen=True, slots=True)
class Declaration:
    """One version of one event type, as its publisher declared it."""

    type: str
    version: int
    entity: str
    payload: Payload
    example: Mapping[str, Any]

    @property
    def dataschema(self) -> str:
        """The URI events of this type carry."""
        return schema_uri(self.type, self.version)

    def schema(self) -> dict[str, Any]:
        """The JSON Schema (2020-12) of ``data``, with the example and the entity the event is about."""
        schema = self.payload.model_json_schema(mode="serialization")
        dialect = "https://json-schema.org/draft/2020-12/schema"
        schema = {"$schema": dialect, "$id": self.dataschema, ENTITY: self.entity, **schema}
        # A newer publisher adds fields: the model refuses them on construction, a reader must not.
        schema.pop("additionalProperties", None)
        return schema | {"examples": [self.payload.model_validate(self.example).model_dump(mode="json")]}


_declared: dict[tuple[str, int], Declaration] = {}
_by_class: dict[Payload, Declaration] = {}
E = TypeVar("E", bound=Payload)


def event(event_type: str, *, version: int = 1, entity: str, example: Mapping[str, Any]) -> Callable[[E], E]:
    """Declare a payload class: its type (``contact.created``), schema version and the entity it is about.

    ``example`` is checked against the class and published with its schema: consumers are tested against it.
    Raises ``ValueError`` for a type declared twice.
    """
    if not _TYPE.match(event_type):
        raise ValueError(f"{event_type!r} is not an event type like 'contact.created'")

    def declare(payload: E) -> E:
        known = _declared.get((event_type, version))
        if known is not None and known.payload.__qualname__ != payload.__qualname__:
            raise ValueError(f"{event_type} version {version} is already declared by {known.payload.__qualname__}")
        payload.model_validate(example)
        declaration = Declaration(event_type, version, entity, payload, example)
        _declared[event_type, version] = _by_class[payload] = declaration
        return payload

    return declare


def declaration_of(payload: Payload) -> Declaration:
    """The declaration of a payload class; raises ``TypeError`` when it has none."""
    try:
        return _by_class[payload]
    except KeyError:
        raise TypeError(f"{payload.__qualname__} is not declared: put @event(...) on it") from None


def declarations(module: str = "") -> list[Declaration]:
    """Every declaration made in modules whose name begins with ``module``, by type and version."""
    found = (d for d in _declared.values() if d.payload.__module__.startswith(module))
    return sorted(found, key=lambda d: (d.type, d.version))
