"""The types a custom field can have, and what values each accepts."""

from collections.abc import Mapping
from datetime import date
from typing import Any, Literal

FieldType = Literal["text", "number", "boolean", "date", "select"]


def problem_with(definition: Mapping[str, Any] | None, value: Any) -> str | None:
    """Why a field so defined (or not at all) cannot hold ``value``, in words, or None when it can. Null removes any."""
    if value is None:
        return None
    if definition is None:
        return "is not defined"
    kind: FieldType = definition["type"]
    if kind == "number":
        return None if isinstance(value, int | float) and not isinstance(value, bool) else "must be a number"
    if kind == "boolean":
        return None if isinstance(value, bool) else "must be true or false"
    if not isinstance(value, str):
        return "must be text"
    if kind == "date":
        return None if _is_date(value) else "must be a date such as 2026-05-31"
    if kind == "select" and value not in definition["options"]:
        return f"must be one of: {', '.join(definition['options'])}"
    return None


def _is_date(value: str) -> bool:
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False
