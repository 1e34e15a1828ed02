from typing import Annotated

import jsonschema
import pytest
from pydantic import BaseModel, ValidationError

from shared.events import Event, PersonalData, declaration_of, declarations, event
from tests.shared.events.support import ThingChanged


class Address(BaseModel):
    street: Annotated[str, PersonalData]
    country: str


@event(
    "note.added", version=2, entity="note", example={"text": "Call back", "address": {"street": "A 1", "country": "DE"}}
)
class NoteAdded(Event):
    """A note was written."""

    text: Annotated[str, PersonalData]
    author: Annotated[str | None, PersonalData] = None
    address: Address | None = None
    tags: tuple[Annotated[str, PersonalData], ...] = ()
    count: int = 0


def test_a_declaration_says_type_version_and_entity() -> None:
    declared = declaration_of(NoteAdded)
    assert (declared.type, declared.version, declared.entity) == ("note.added", 2, "note")
    assert declared.dataschema == "urn:guardian:schema:note.added:2"


def test_fields_with_personal_data_are_marked_at_any_depth() -> None:
    schema = declaration_of(NoteAdded).schema()
    marked = {name for name, field in schema["properties"].items() if field.get("x-personal-data")}
    assert marked == {"text", "author"}
    assert schema["properties"]["tags"]["items"]["x-personal-data"] is True
    assert schema["$defs"]["Address"]["properties"]["street"]["x-personal-data"] is True
    assert "x-personal-data" not in schema["$defs"]["Address"]["properties"]["country"]


def test_the_schema_is_valid_and_its_example_matches_it() -> None:
    schema = declaration_of(NoteAdded).schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    (example,) = schema["examples"]
    jsonschema.validate(example, schema)
    assert example["text"] == "Call back"


def test_a_reader_may_meet_fields_of_a_newer_publisher() -> None:
    schema = declaration_of(NoteAdded).schema()
    jsonschema.validate({**schema["examples"][0], "added_later": 1}, schema)


def test_an_event_has_an_example() -> None:
    with pytest.raises(TypeError, match="example"):
        event("bare.made", entity="bare")  # type: ignore[call-arg]


def test_the_schema_names_the_entity() -> None:
    assert declaration_of(NoteAdded).schema()["x-entity"] == "note"


def test_declarations_of_a_module() -> None:
    found = declarations(__name__)
    assert "note.added" in [d.type for d in found]
    assert all(d.payload is not ThingChanged for d in found)
    assert {"note.added", "thing.changed"} <= {d.type for d in declarations()}


def test_a_type_is_declared_once() -> None:
    with pytest.raises(ValueError, match="already declared"):

        @event("note.added", version=2, entity="note", example={})
        class Other(Event):
            pass


@pytest.mark.parametrize("name", ["created", "Contact.created", "contact created", ""])
def test_an_event_type_has_two_words(name: str) -> None:
    with pytest.raises(ValueError, match="not an event type"):
        event(name, entity="x", example={})


def test_an_example_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValidationError):

        @event("bad.example", entity="bad", example={"n": "x"})
        class BadExample(Event):
            n: int


def test_a_payload_must_be_declared() -> None:
    class Undeclared(Event):
        pass

    with pytest.raises(TypeError, match="not declared"):
        declaration_of(Undeclared)
