"""Rules of contacts."""

from collections.abc import Mapping
from typing import Any

from shared.errors import FieldError, ValidationFailed


def require_identifiable(contact: Mapping[str, Any]) -> None:
    """Raise ``ValidationFailed`` for a contact nobody could tell from another."""
    if not (contact["first_name"] or contact["last_name"] or contact["email"]):
        message = "give a first name, a last name or an e-mail address"
        raise ValidationFailed(
            "A contact needs a name or an e-mail address.",
            errors=[FieldError(field="/email", code="not_identifiable", message=message)],
        )
