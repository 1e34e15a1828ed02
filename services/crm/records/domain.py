"""Rules every record follows, free of I/O."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from shared.auth import Principal
from shared.errors import FieldError, Problem, ValidationFailed
from shared.ids import new_id

MAX_CUSTOM_FIELDS = 50
MAX_CUSTOM_FIELDS_BYTES = 16_384
"""As JSON. An event holds the values before and after, and has to stay within its own limit."""


def new_record(principal: Principal, now: datetime, values: Mapping[str, Any]) -> dict[str, Any]:
    """A record at version 1; it belongs to the person who makes it unless ``owner_id`` says otherwise."""
    record = {
        "id": new_id(),
        "organization_id": principal.organization_id,
        "version": 1,
        "created_at": now,
        "updated_at": now,
        **values,
    }
    if record["owner_id"] is None:
        record["owner_id"] = principal.user_id
    record["tags"] = unique_tags(record["tags"])
    record["custom_fields"] = merged_custom_fields({}, record["custom_fields"])
    return record


def unique_tags(tags: list[str]) -> list[str]:
    """Tags without repetition, in the order they were given."""
    return list(dict.fromkeys(tags))


def merged_custom_fields(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """``before`` with the values of ``wanted``, where null removes one; raises ``ValidationFailed`` when it is too much."""
    merged = {key: value for key, value in {**before, **wanted}.items() if value is not None}
    if len(merged) > MAX_CUSTOM_FIELDS or len(orjson.dumps(merged)) > MAX_CUSTOM_FIELDS_BYTES:
        limit = f"at most {MAX_CUSTOM_FIELDS} fields and {MAX_CUSTOM_FIELDS_BYTES} bytes of JSON"
        raise ValidationFailed(
            f"A record holds {limit} of custom fields.",
            errors=[FieldError(field="/custom_fields", code="custom_fields_too_large", message=limit)],
        )
    return merged


def differences(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``wanted`` whose value is not the present one."""
    return {name: value for name, value in wanted.items() if not _same(before[name], value)}


def _same(left: Any, right: Any) -> bool:
    # Python takes true for 1 and 1.0 for 1; a custom field that changes between them has changed.
    if isinstance(left, dict) and isinstance(right, dict):
        return orjson.dumps(left, option=orjson.OPT_SORT_KEYS) == orjson.dumps(right, option=orjson.OPT_SORT_KEYS)
    return bool(left == right)


def changes(before: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``{field: {before, after}}`` for an event, in JSON's types."""
    return {name: {"before": _plain(before[name]), "after": _plain(after)} for name, after in changed.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return value


def at_item(problem: Problem, position: int) -> Problem:
    """``problem`` as it reads for one item of a bulk request: every field below ``/items/<position>``."""
    prefix = f"/items/{position}"
    if problem.errors:
        problem.errors = [{**each, "field": f"{prefix}{each['field']}"} for each in problem.errors]
    else:
        problem.errors = [FieldError(field=prefix, code=problem.code, message=problem.detail or problem.title)]
    return problem
