"""What the use cases of API keys, and of the signing keys that belong to them, refuse."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from services.identity.domain import ALL_SCOPES, exceeding
from shared import clock
from shared.auth import Principal
from shared.db import Record
from shared.errors import Conflict, Forbidden, ValidationFailed


def check_scopes(principal: Principal, scopes: Iterable[str]) -> None:
    """Raise unless the caller may give these scopes: ``ValidationFailed``, ``Forbidden``."""
    unknown = exceeding(scopes, ALL_SCOPES)
    if unknown:
        raise ValidationFailed(
            f"There is no such scope: {', '.join(unknown)}. GET /v1/roles lists them.",
            code="unknown_scope",
            errors=[{"field": "/scopes", "code": "unknown_scope", "message": f"unknown: {', '.join(unknown)}"}],
        )
    beyond = exceeding(scopes, principal.scopes)
    if beyond:
        raise Forbidden(
            f"You cannot give a key what you may not do yourself: {', '.join(beyond)}.", code="scopes_exceed_caller"
        )


def check_covers(principal: Principal, scopes: Iterable[str]) -> None:
    """Raise ``Forbidden`` for a caller who may less than the key with these scopes."""
    beyond = exceeding(scopes, principal.scopes)
    if beyond:
        raise Forbidden(
            f"The key may do what you may not do yourself: {', '.join(beyond)}. You can rename or revoke it, "
            "or let it expire sooner.",
            code="scopes_exceed_caller",
        )


def outlives(expires_at: datetime | None, other: datetime | None) -> bool:
    """Whether a key with the first expiry works when one with the other has expired."""
    return other is not None and (expires_at is None or expires_at > other)


def check_expiry(expires_at: datetime | None) -> None:
    """Raise ``ValidationFailed`` for a key that would have expired already."""
    if expires_at is not None and expires_at <= clock.now():
        raise ValidationFailed(
            "The key would have expired already.",
            code="expires_in_the_past",
            errors=[{"field": "/expires_at", "code": "expires_in_the_past", "message": "must lie in the future"}],
        )


def require_alive(row: Record) -> None:
    """Raise ``Conflict`` for an API key that is revoked, or replaced and past its end."""
    if row["revoked_at"] is not None:
        raise Conflict("The key is revoked and stays so; make a new one.", code="api_key_revoked")
    ends = [moment for moment in (row["expires_at"], row["overlap_ends_at"]) if moment is not None]
    if row["replaced_by"] is not None and ends and min(ends) <= clock.now():
        raise Conflict("The key's overlap has ended; use its successor.", code="api_key_expired")


def responsible_person(principal: Principal) -> UUID:
    """Who answers for what the caller makes; raises ``Forbidden`` when nobody does."""
    if principal.actor_type == "user":
        return UUID(principal.actor_id)
    if principal.on_behalf_of is None:
        raise Forbidden("A key is made by a person, or by a key of theirs.", code="user_required")
    return UUID(principal.on_behalf_of)
