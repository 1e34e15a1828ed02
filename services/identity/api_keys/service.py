"""Use cases of API keys. A key never has a scope that whoever makes it lacks."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from services.identity.api_keys import repository, rules
from services.identity.api_keys.schemas import ApiKeyChange, ApiKeyCreate, ApiKeyReroll
from services.identity.events import ApiKeyCreated, ApiKeyRevoked, ApiKeyRotated, ApiKeyUpdated
from services.identity.signing_keys import service as signing_keys
from services.identity.signing_keys.domain import SignaturePolicy
from shared import clock
from shared.auth import Principal, api_key
from shared.db import Record, Session
from shared.errors import Conflict, NotFound
from shared.events import publish
from shared.http.pagination import PageParams, decode_moment_cursor
from shared.ids import new_id
from shared.vault import Vault

SORT = "created_at"


async def create(
    session: Session,
    principal: Principal,
    body: ApiKeyCreate,
    *,
    rotated_from: UUID | None = None,
    signature_policy: SignaturePolicy = "off",
    sign_answers: bool = False,
) -> tuple[dict[str, Any], str]:
    """Store a key; the row, and the text that nobody will see again.

    Raises ``ValidationFailed`` for an unknown scope or a past expiry, ``Forbidden`` (``scopes_exceed_caller``).
    """
    rules.check_scopes(principal, body.scopes)
    now, key = clock.now(), api_key.generate(body.mode)
    expires_at = body.ends_at(now)
    rules.check_expiry(expires_at)
    row: dict[str, Any] = {
        "id": new_id(),
        "public_id": key.public_id,
        "name": body.name,
        "mode": body.mode,
        "scopes": sorted(set(body.scopes)),
        "created_by": rules.responsible_person(principal),
        "expires_at": expires_at,
        "revoked_at": None,
        "rotated_from": rotated_from,
        "replaced_by": None,
        "overlap_ends_at": None,
        "last_used_at": None,
        "signature_policy": signature_policy,
        "sign_answers": sign_answers,
        "version": 1,
        "created_at": now,
        "updated_at": now,
    }
    stored = {**row, "organization_id": principal.organization_id, "secret_sha256": key.sha256}
    await repository.add(session, stored)
    names = ("public_id", "name", "mode", "scopes", "expires_at", "created_by", "rotated_from")
    event = ApiKeyCreated.model_validate({name: row[name] for name in names})
    publish(session, event, subject=row["id"], sequence=1, principal=principal)
    return row, key.text


async def get(session: Session, principal: Principal, key_id: UUID, *, lock: bool = False) -> Record:
    """A key of the caller's organisation; raises ``NotFound``."""
    row = await repository.get(session, principal.organization_id, key_id, lock=lock)
    if row is None:
        raise NotFound("There is no API key with this id.")
    return row


async def change(session: Session, principal: Principal, before: Record, body: ApiKeyChange) -> Record:
    """Change a locked key; raises ``Conflict`` for one that is revoked, or has no signing key for what it asks.

    Raises ``Forbidden`` (``scopes_exceed_caller``) when a key that may more than the caller would get other scopes,
    live longer, or other things signed. Ending it sooner only takes power away, as revoking does.
    """
    rules.require_alive(before)
    wanted = body.model_dump(exclude_unset=True)
    if "scopes" in wanted:
        wanted["scopes"] = sorted(set(wanted["scopes"]))
        rules.check_scopes(principal, wanted["scopes"])
    changed = {name: value for name, value in wanted.items() if before[name] != value}
    if "expires_at" in changed:
        rules.check_expiry(changed["expires_at"])
    lengthened = "expires_at" in changed and rules.outlives(changed["expires_at"], before["expires_at"])
    if lengthened or {"scopes", "signature_policy", "sign_answers"} & changed.keys():
        rules.check_covers(principal, before["scopes"])
    if "signature_policy" in changed:
        await signing_keys.check_policy(session, principal, before, changed["signature_policy"])
    if changed.get("sign_answers"):
        await signing_keys.check_answers(session, principal, before)
    if not changed:
        return before
    changes = {name: {"before": _plain(before[name]), "after": _plain(value)} for name, value in changed.items()}
    row = await _write(session, principal, before, changed)
    event = ApiKeyUpdated.model_validate({"changes": changes})
    publish(session, event, subject=row["id"], sequence=row["version"], principal=principal)
    return row


async def revoke(session: Session, principal: Principal, before: Record, reason: str = "revoked") -> Record:
    """Make a locked key worthless for good; revoking it again changes nothing."""
    if before["revoked_at"] is not None:
        return before
    row = await _write(session, principal, before, {"revoked_at": clock.now()})
    event = ApiKeyRevoked(public_id=row["public_id"], reason=reason)
    publish(session, event, subject=row["id"], sequence=row["version"], principal=principal)
    return row


async def revoke_made_by(session: Session, principal: Principal, user_id: UUID) -> None:
    """Revoke what a person made who leaves the organisation: they may still know the texts."""
    for row in await repository.made_by(session, principal.organization_id, user_id):
        await revoke(session, principal, row, "member_removed")


async def reroll(
    session: Session, vault: Vault, principal: Principal, before: Record, body: ApiKeyReroll
) -> tuple[dict[str, Any], str]:
    """Make a successor of a locked key, which goes on working for the overlap; raises ``Conflict``.

    The successor has the same signed: it has the policy, the option for answers, and copies of the signing keys that work.
    """
    rules.require_alive(before)
    if before["replaced_by"] is not None:
        raise Conflict("The key has a successor already; reroll that one.", code="already_rerolled")
    expires_at = body.expires_at if "expires_at" in body.model_fields_set else before["expires_at"]
    again = ApiKeyCreate(name=before["name"], scopes=before["scopes"], mode=before["mode"], expires_at=expires_at)
    row, text = await create(
        session, principal, again, rotated_from=before["id"],
        signature_policy=before["signature_policy"], sign_answers=before["sign_answers"],
    )  # fmt: skip
    await signing_keys.copy(session, vault, principal, before["id"], row["id"])
    ends_at = clock.now() + timedelta(seconds=body.overlap_seconds)
    old = await _write(session, principal, before, {"replaced_by": row["id"], "overlap_ends_at": ends_at})
    event = ApiKeyRotated(public_id=old["public_id"], replaced_by=row["id"], overlap_ends_at=ends_at)
    publish(session, event, subject=old["id"], sequence=old["version"], principal=principal)
    if body.overlap_seconds == 0:
        await revoke(session, principal, old, "rotated")
    return row, text


async def page(session: Session, principal: Principal, query: PageParams) -> list[Record]:
    """One key more than the page holds."""
    after = decode_moment_cursor(query.cursor, SORT) if query.cursor else None
    return await repository.page(session, principal.organization_id, after, query.limit + 1)


async def _write(session: Session, principal: Principal, before: Record, changed: Mapping[str, Any]) -> Record:
    return await repository.change(
        session, principal.organization_id, before["id"], {**changed, "updated_at": clock.now()}
    )


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
