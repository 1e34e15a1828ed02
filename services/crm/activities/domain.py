"""Rules of activities."""

from collections.abc import Mapping
from typing import Any, Literal

from shared.errors import FieldError, ValidationFailed

Kind = Literal["call", "email", "meeting", "note", "task"]


def require_content(activity: Mapping[str, Any]) -> None:
    """Raise ``ValidationFailed`` for an activity that says nothing: a note needs no subject, but then a body."""
    if not (activity["subject"] or activity["body"].strip()):
        raise ValidationFailed(
            "An activity needs a subject or a body.",
            errors=[FieldError(field="/subject", code="empty_activity", message="give a subject or a body")],
        )
