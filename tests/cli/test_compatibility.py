"""Every kind of breaking change of an event is refused with a sentence; additions are written."""

import json
import subprocess
from collections.abc import Callable
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from cli import contracts
from cli.compatibility import BreakingChange, breaking_changes, refusals
from cli.main import app
from shared.events import Declaration, Event, PersonalData

PATH = "events/crm/parcel.sent.v1.json"
Json = dict[str, Any]


class Place(BaseModel):
    street: Annotated[str, PersonalData]
    floor: int | None = None
    beside: "Place | None" = None


class Sent(Event):
    """A parcel left."""

    weight: int
    note: Annotated[str | None, PersonalData]
    kind: Literal["letter", "box"]
    due: datetime
    place: Place
    either: int | str
    stops: list[Place] = Field([])
    sizes: tuple[int, int] = (1, 1)
    labels: dict[str, int] = Field({})
    code: str = Field("", max_length=10)


EXAMPLE = {"weight": 1, "note": None, "kind": "box", "due": "2026-01-15T12:00:00Z", "place": {"street": "A 1"},
           "either": 1}  # fmt: skip
SENT = Declaration("parcel.sent", 1, "parcel", Sent, EXAMPLE).schema()


def changed(edit: Callable[[Json], object]) -> Json:
    schema = deepcopy(SENT)
    edit(schema)
    return schema


def fields(schema: Json) -> Json:
    found: Json = schema["properties"]
    return found


def place(schema: Json) -> Json:
    found: Json = schema["$defs"]["Place"]["properties"]
    return found


BREAKS: dict[str, tuple[Callable[[Json], object], str]] = {
    "field removed": (lambda s: fields(s).pop("weight"), "the field weight was removed"),
    "inner field removed": (lambda s: place(s).pop("street"), "the field place.street was removed"),
    "optional now": (lambda s: s["required"].remove("weight"), "the field weight is optional now"),
    "required now": (lambda s: s["required"].append("code"), "the field code is required now"),
    "new and required": (
        lambda s: (fields(s).update(new={"type": "string"}), s["required"].append("new")),
        "the field new is new and required, but recorded events lack it",
    ),
    "another type": (lambda s: fields(s)["weight"].update(type="number"), 'weight has type "number" now and had "inte'),
    "any type": (lambda s: fields(s)["weight"].pop("type"), 'the field weight has type none now and had "integer"'),
    "null refused": (lambda s: fields(s)["note"]["anyOf"].pop(), "the field note may not be null any more"),
    "null allowed": (
        lambda s: fields(s).update(weight={"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        "the field weight may be null now",
    ),
    "alternative removed": (lambda s: fields(s)["either"]["anyOf"].pop(), "the field either does not allow string"),
    "alternative added": (
        lambda s: fields(s)["either"]["anyOf"].append({"type": "boolean"}),
        "the field either allows boolean now",
    ),
    "alternative changed": (
        lambda s: fields(s)["either"]["anyOf"][1].update(type="array"),
        "the field either does not allow string any more",
    ),
    "value removed": (
        lambda s: fields(s)["kind"]["enum"].remove("box"),
        'the field kind does not allow "box" any more',
    ),
    "value added": (lambda s: fields(s)["kind"]["enum"].append("tube"), 'the field kind allows "tube" now'),
    "values closed": (lambda s: fields(s)["code"].update(enum=["a"]), "the field code allows only certain values now"),
    "values opened": (lambda s: fields(s)["kind"].pop("enum"), "the field kind is open to any value now"),
    "another format": (
        lambda s: fields(s)["due"].update(format="date"),
        'due has format "date" now and had "date-time"',
    ),
    "format dropped": (
        lambda s: fields(s)["due"].pop("format"),
        'the field due has format none now and had "date-time"',
    ),
    "shorter": (lambda s: fields(s)["code"].update(maxLength=5), "the field code has maxLength 5 now and had 10"),
    "a limit": (lambda s: fields(s)["weight"].update(maximum=9), "the field weight has maximum 9 now and had none"),
    "other elements": (
        lambda s: fields(s)["stops"].update(items={"type": "string"}),
        'the field stops[] has type "string" now and had "object"',
    ),
    "other values": (
        lambda s: fields(s)["labels"]["additionalProperties"].update(type="string"),
        'the field labels.* has type "string" now',
    ),
    "closed": (
        lambda s: s["$defs"]["Place"].update(additionalProperties=False),
        "the field place is closed to other fields now",
    ),
    "other places": (
        lambda s: fields(s)["sizes"]["prefixItems"].append({"type": "integer"}),
        "the field sizes has 3 places now and had 2",
    ),
    "a place changed": (
        lambda s: fields(s)["sizes"]["prefixItems"][1].update(type="string"),
        "the field sizes[1] has type",
    ),
    "no longer marked": (
        lambda s: fields(s)["note"].pop("x-personal-data"),
        "the field note is not marked as personal data any more",
    ),
    "inner mark": (lambda s: place(s)["street"].pop("x-personal-data"), "the field place.street is not marked"),
    "another entity": (lambda s: s.update({"x-entity": "box"}), "it is about box now and was about parcel, so its key"),
    "no entity": (lambda s: s.pop("x-entity"), "it is about nothing now and was about parcel"),
}
ADDITIONS: dict[str, Callable[[Json], object]] = {
    "a field with a default": lambda s: fields(s).update(new={"type": "string", "default": ""}),
    "an inner field with a default": lambda s: place(s).update(door={"type": "string"}),
    "a field of a new type": lambda s: (
        s["$defs"].update(Box={"type": "object"}),
        fields(s).update(box={"$ref": "#/$defs/Box"}),
    ),
    "texts": lambda s: (s.update(description="Otherwise", title="Parcel"), fields(s)["weight"].update(title="Mass")),
    "another example": lambda s: s.update(examples=[]),
    "a mark": lambda s: fields(s)["code"].update({"x-personal-data": True}),
    "another name of a type": lambda s: s.update(json.loads(json.dumps(s).replace("Place", "Address"))),
    "the order of alternatives": lambda s: fields(s)["either"]["anyOf"].reverse(),
    "a type written out": lambda s: fields(s).update(weight={"anyOf": [{"type": "integer"}]}),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_breaking_change_is_refused_with_its_field(name: str) -> None:
    edit, words = BREAKS[name]
    (sentence, *_) = refusals({PATH: json.dumps(SENT)}, {PATH: json.dumps(changed(edit))})
    assert sentence.startswith("parcel.sent.v1: ")
    assert words in sentence
    assert "add parcel.sent.v2 beside it (version=2)" in sentence


@pytest.mark.parametrize("name", ADDITIONS)
def test_an_addition_is_no_break(name: str) -> None:
    new = changed(ADDITIONS[name])
    assert new != SENT or name == "the order of alternatives"
    assert breaking_changes(SENT, new) == []


def test_an_event_or_version_that_is_gone_is_refused() -> None:
    (sentence,) = refusals({PATH: json.dumps(SENT)}, {})
    assert sentence.startswith("parcel.sent.v1 is not published any more. Declare it again")
    assert f"delete openapi/{PATH}" in sentence


def test_a_new_version_beside_the_old_one_may_be_anything() -> None:
    old = {PATH: json.dumps(SENT)}
    assert refusals(old, old | {PATH.replace("v1", "v2"): '{"type": "object"}'}) == []


def test_a_schema_from_before_the_entity_was_written_down_is_compared_without_it() -> None:
    assert breaking_changes(changed(lambda s: s.pop("x-entity")), SENT) == []


# What producers and consumers of any two compatible schemas may rely on.

LEAVES: list[Json] = [
    {"type": "string"},
    {"type": "string", "enum": ["a", "b"]},
    {"type": "integer"},
    {"type": "integer", "minimum": 0},
    {"type": "boolean"},
    {"type": "null"},
]
NAMES = st.sampled_from("abcd")


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Json]) -> Json:
    properties = draw(st.dictionaries(NAMES, inner, max_size=3))
    required = sorted(name for name in properties if draw(st.booleans()))
    return {"type": "object", "properties": properties, "required": required}


SCHEMAS = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        objects(inner),
        inner.map(lambda items: {"type": "array", "items": items}),
        inner.map(lambda values: {"type": "object", "additionalProperties": values}),
        st.lists(inner, min_size=2, max_size=3).map(lambda several: {"anyOf": several}),
    ),
    max_leaves=6,
)


@st.composite
def edited(draw: st.DrawFn, schema: Json) -> Json:
    """Another schema near this one: fields come, go or turn required; any part may become another."""
    if draw(st.integers(0, 9)) == 0:
        return draw(SCHEMAS)
    if schema in LEAVES and draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from([*LEAVES, {"anyOf": [schema, {"type": "null"}]}]))
    new = deepcopy(schema)
    for keyword in ("items", "additionalProperties"):
        if keyword in new:
            new[keyword] = draw(edited(new[keyword]))
    if "anyOf" in new:
        new["anyOf"] = [draw(edited(each)) for each in draw(st.permutations(new["anyOf"]))]
    if "properties" in new:
        new["properties"] = {name: draw(edited(field)) for name, field in new["properties"].items()}
        if draw(st.integers(0, 3)) == 0:
            new["properties"].pop(draw(NAMES), None)
        if draw(st.booleans()):
            new["properties"].setdefault(draw(st.sampled_from("wxyz")), draw(SCHEMAS))
        if draw(st.integers(0, 3)) == 0:
            new["required"] = sorted(name for name in new["properties"] if draw(st.booleans()))
    return new


@st.composite
def instances(draw: st.DrawFn, schema: Json) -> Any:
    """Something a producer with this schema may publish."""
    if "anyOf" in schema:
        return draw(instances(draw(st.sampled_from(schema["anyOf"]))))
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    simple: dict[str, st.SearchStrategy[Any]] = {
        "string": st.text(max_size=3),
        "integer": st.integers(schema.get("minimum", -3), 9),
        "boolean": st.booleans(),
        "null": st.none(),
    }
    kind = schema["type"]
    if kind in simple:
        return draw(simple[kind])
    if kind == "array":
        return draw(st.lists(instances(schema["items"]), max_size=2))
    if "additionalProperties" in schema:
        return draw(st.dictionaries(NAMES, instances(schema["additionalProperties"]), max_size=2))
    present = [name for name in schema["properties"] if name in schema["required"] or draw(st.booleans())]
    return {name: draw(instances(schema["properties"][name])) for name in present}


@settings(max_examples=70)
@given(st.data())
def test_compatible_schemas_read_each_others_events(data: st.DataObject) -> None:
    old = data.draw(objects(SCHEMAS))
    new = data.draw(edited(old))
    assume(not breaking_changes(old, new))
    # A consumer written for the old schema reads what is published now; a new one reads what the log holds.
    jsonschema.validate(data.draw(instances(new)), old)
    jsonschema.validate(data.draw(instances(old)), new)


@given(SCHEMAS)
def test_nothing_is_incompatible_with_itself(schema: Json) -> None:
    assert breaking_changes(schema, deepcopy(schema)) == []


# The command.


@pytest.fixture
def openapi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of contracts of our own, with one event, outside of git."""
    folder = tmp_path / "openapi"
    written = folder / PATH
    written.parent.mkdir(parents=True)
    written.write_text(json.dumps(SENT))
    monkeypatch.setattr(contracts, "FOLDER", folder)
    return folder


def generated(monkeypatch: pytest.MonkeyPatch, schema: Json | None) -> None:
    texts = {} if schema is None else {PATH: json.dumps(schema)}
    monkeypatch.setattr(contracts, "files", lambda _settings: texts)


def test_writing_refuses_a_break_and_leaves_every_file_as_it_was(
    openapi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (openapi / PATH).read_text()
    for schema in (changed(BREAKS["field removed"][0]), None):
        generated(monkeypatch, schema)
        with pytest.raises(BreakingChange):
            contracts.write()
        assert (openapi / PATH).read_text() == before
        for arguments in (["contracts"], ["contracts", "--check"]):
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 1
            assert "parcel.sent.v1" in result.stderr


def test_writing_takes_an_addition_and_a_schema_whose_file_was_deleted(
    openapi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated(monkeypatch, changed(ADDITIONS["texts"]))
    assert contracts.write() == [PATH]
    assert contracts.broken() == []
    (openapi / PATH).unlink()
    generated(monkeypatch, changed(BREAKS["field removed"][0]))
    assert contracts.write() == [PATH]


def test_a_break_that_was_written_by_hand_is_found_in_the_version_before(
    openapi: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    assert contracts.released_events() == {}, "no git, no version before"
    git("init", "-q", "-b", "main")
    git("add", "openapi")
    git("commit", "-q", "-m", "one", "--no-verify")
    assert contracts.released_events() == {}, "one commit has none before it"
    broken = changed(BREAKS["field removed"][0])
    (openapi / PATH).write_text(json.dumps(broken))
    generated(monkeypatch, broken)
    git("commit", "-q", "-a", "-m", "two", "--no-verify")
    assert "the field weight was removed" in contracts.broken()[0]
    git("update-ref", "refs/remotes/origin/main", "HEAD^")
    git("commit", "-q", "--allow-empty", "-m", "three", "--no-verify")
    assert "the field weight was removed" in contracts.broken()[0], "a branch is compared with main"
    git("update-ref", "refs/remotes/origin/main", "HEAD^")
    assert contracts.broken() == []


def test_no_published_event_breaks_a_promise() -> None:
    assert contracts.broken() == []
