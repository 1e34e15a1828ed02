"""Which changes of an event's published schema would break somebody.

A version of an event is a promise in both directions: consumers written for it read what is published
tomorrow, and tomorrow's consumers read what the log already holds. So within a version only this may
change: a field may be added that is not required, texts and examples may be reworded, and a field may be
marked as personal data. Everything else is a new version beside the old one.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from shared.events.registry import ENTITY, PERSONAL_DATA

Schema = Mapping[str, Any]
_SAYS_NOTHING = frozenset({"$schema", "$id", "$defs", "$comment", "title", "description", "examples", "default", "deprecated", "discriminator"})  # fmt: skip
_COMPARED_APART = frozenset({"properties", "required", "items", "prefixItems", "additionalProperties", "enum", "const", "anyOf", "oneOf", ENTITY, PERSONAL_DATA})  # fmt: skip
KNOWN_KEYWORDS = _SAYS_NOTHING | _COMPARED_APART | {"$ref", "type", "format", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"}  # fmt: skip
"""What an event's schema may use; the values of those not named apart are compared as they stand."""
_NULL = {"type": "null"}


class BreakingChange(Exception):
    """Contracts that must not be written; ``args[0]`` is a list of sentences."""


def refusals(released: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """A sentence for each break between two sets of event schemas: their texts by path below ``openapi/``."""
    found = []
    for path in sorted(released):
        name = path.rpartition("/")[2].removesuffix(".json")
        if path not in wanted:
            found.append(
                f"{name} is not published any more. Declare it again: its events are in the log, and somebody "
                f"reads them. If no release ever had it, delete openapi/{path} and write again."
            )
            continue
        event, _, version = name.rpartition(".v")
        following = f"{event}.v{int(version) + 1}"
        found += [
            f"{name}: {change}. Leave {name} as it is and add {following} beside it "
            f"(version={int(version) + 1}). If no release ever had it, delete openapi/{path} and write again."
            for change in breaking_changes(json.loads(released[path]), json.loads(wanted[path]))
        ]
    return found


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """What changed between two schemas that a reader or the log relies on, each with the field's path."""
    if old.get(ENTITY, new.get(ENTITY)) != new.get(ENTITY):
        return [
            f"it is about {new.get(ENTITY) or 'nothing'} now and was about {old[ENTITY]}, so its key and its order change"
        ]
    return list(dict.fromkeys(_Comparison(old, new).differences(old, new, "")))


class _Comparison:
    def __init__(self, old: Schema, new: Schema, entered: frozenset[tuple[str, str]] = frozenset()) -> None:
        self._roots = old, new
        self._entered = set(entered)

    def differences(self, old: Schema, new: Schema, at: str) -> Iterator[str]:
        if self._marked(0, old) and not self._marked(1, new):
            yield f"{_field(at)} is not marked as personal data any more, though recorded events hold some"
        before, after = self._alternatives(0, old), self._alternatives(1, new)
        if (_NULL in before) != (_NULL in after):
            yield f"{_field(at)} {'may be null now' if _NULL in after else 'may not be null any more'}"
        before, after = ([each for each in some if each != _NULL] for some in (before, after))
        if len(before) == len(after) == 1:
            yield from self._one(before[0], after[0], at)
        else:
            yield from self._several(before, after, at)

    def _resolved(self, side: int, schema: Schema) -> Schema:
        while "$ref" in schema:
            target: Schema = self._roots[side]["$defs"][schema["$ref"].removeprefix("#/$defs/")]
            schema = {**target, **{name: value for name, value in schema.items() if name != "$ref"}}
        return schema

    def _marked(self, side: int, schema: Schema) -> bool:
        return bool(self._resolved(side, schema).get(PERSONAL_DATA))

    def _alternatives(self, side: int, schema: Schema) -> list[Schema]:
        whole = self._resolved(side, schema)
        found: list[Schema] = whole.get("anyOf") or whole.get("oneOf") or [schema]
        return found

    def _several(self, before: list[Schema], after: list[Schema], at: str) -> Iterator[str]:
        left = list(after)
        for one in before:
            same = next((other for other in left if not self._differ(one, other)), None)
            if same is None:
                yield f"{_field(at)} does not allow {_kind(one)} any more"
            else:
                left.remove(same)
        for other in left:
            yield f"{_field(at)} allows {_kind(other)} now"

    def _differ(self, one: Schema, other: Schema) -> bool:
        return any(_Comparison(*self._roots, frozenset(self._entered)).differences(one, other, ""))

    def _one(self, old: Schema, new: Schema, at: str) -> Iterator[str]:
        if "$ref" in old and "$ref" in new:
            if (old["$ref"], new["$ref"]) in self._entered:
                return  # a type that contains itself, or that was compared elsewhere
            self._entered.add((old["$ref"], new["$ref"]))
        old, new = self._resolved(0, old), self._resolved(1, new)
        for keyword in sorted((old.keys() | new.keys()) - _SAYS_NOTHING - _COMPARED_APART):
            if old.get(keyword) != new.get(keyword):
                yield f"{_field(at)} has {keyword} {_told(new, keyword)} now and had {_told(old, keyword)}"
        yield from _values(old, new, at)
        yield from self._fields(old, new, at)
        yield from self._inside(old, new, at)

    def _fields(self, old: Schema, new: Schema, at: str) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        needed, needs = set(old.get("required", ())), set(new.get("required", ()))
        for name, field in before.items():
            path = f"{at}.{name}" if at else name
            if name not in after:
                yield f"{_field(path)} was removed"
                continue
            if (name in needed) != (name in needs):
                yield f"{_field(path)} is {'required' if name in needs else 'optional'} now"
            yield from self.differences(field, after[name], path)
        for name in after.keys() - before.keys():
            path = f"{at}.{name}" if at else name
            if name in needs:
                yield f"{_field(path)} is new and required, but recorded events lack it: give it a default"
            elif old.get("additionalProperties") is False:
                yield f"{_field(path)} is new where no other field was allowed"

    def _inside(self, old: Schema, new: Schema, at: str) -> Iterator[str]:
        """Elements of lists and values of maps."""
        for keyword, suffix in (("items", "[]"), ("additionalProperties", ".*")):
            before, after = (
                each if isinstance(each := side.get(keyword, True), dict) else {} if each else None
                for side in (old, new)
            )
            if (before is None) != (after is None):
                yield f"{_field(at)} {'is closed to' if after is None else 'is open to'} other fields now"
            elif before is not None and after is not None and (before or after):  # two that say nothing are alike
                yield from self.differences(before, after, at + suffix)
        first, second = old.get("prefixItems", []), new.get("prefixItems", [])
        if len(first) != len(second):
            yield f"{_field(at)} has {len(second)} places now and had {len(first)}"
        for nth, (before, after) in enumerate(zip(first, second, strict=False)):
            yield from self.differences(before, after, f"{at}[{nth}]")


def _values(old: Schema, new: Schema, at: str) -> Iterator[str]:
    before, after = ([side["const"]] if "const" in side else side.get("enum") for side in (old, new))
    if before is None and after is None:
        return
    if before is None or after is None:
        yield f"{_field(at)} {'is open to any value' if after is None else 'allows only certain values'} now"
        return
    for gone in (value for value in before if value not in after):
        yield f"{_field(at)} does not allow {json.dumps(gone)} any more"
    for added in (value for value in after if value not in before):
        yield f"{_field(at)} allows {json.dumps(added)} now, which readers of a closed list do not know"


def _field(path: str) -> str:
    return f"the field {path}" if path else "the payload"


def _told(schema: Schema, keyword: str) -> str:
    return json.dumps(schema[keyword]) if keyword in schema else "none"


def _kind(schema: Schema) -> str:
    name = schema.get("$ref", "").rpartition("/")[2] or schema.get("format") or schema.get("type")
    return str(name or "anything")
