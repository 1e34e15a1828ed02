"""Use cases of signing keys. Each belongs to an API key, whose lock the caller of a change holds."""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from services.identity.api_keys import rules
from services.identity.events import SigningKeyCreated, SigningKeyRevoked, SigningKeyRotated
from services.identity.signing_keys import repository
from services.identity.signing_keys.domain import MOST_ALIVE, Algorithm, SignaturePolicy, can_be_signed, new_secret
from services.identity.signing_keys.schemas import SigningKeyCreate, SigningKeyRotate
from shared import clock
from shared.auth import Principal
from shared.db import Record, Session
from shared.errors import Conflict, NotFound, ValidationFailed
from shared.events import publish
from shared.http.pagination import PageParams, decode_moment_cursor
from shared.ids import new_id
from shared.vault import Unsealable, Vault, signing_key_context

SORT = "created_at"
_NOT_CHOSEN = (
    'A public_key needs "algorithm": "ed25519" beside it. Without an algorithm the key is of hmac-sha256, whose secret is '
    "made here; then send no public_key."
)
_NOT_KEPT = (
    "A rotation keeps the algorithm, and the secret of hmac-sha256 is made here; send no public_key. To go over to "
    'ed25519 make another signing key, with "algorithm": "ed25519" and the public_key, then revoke this one.'
)


@dataclass(frozen=True, slots=True)
class _Key:
    """A key to be stored. ``material``: a secret in ASCII, or the 32 bytes of a public key."""

    algorithm: Algorithm
    material: bytes = field(repr=False)
    expires_at: datetime | None
    rotated_from: UUID | None = None


async def create(
    session: Session, vault: Vault, principal: Principal, api_key: Record, body: SigningKeyCreate
) -> tuple[dict[str, Any], str | None]:
    """Store a key of an API key; what is shown of it, and the secret (of HMAC) that nobody will see again.

    Raises ``Conflict`` (``too_many_signing_keys``; ``signing_key_exists`` for a public key that one that works has;
    the API key is revoked), ``Forbidden`` for a caller who may less than the API key, ``ValidationFailed`` for a past
    expiry or a public key that is missing or not asked for.
    """
    rules.require_alive(api_key)
    rules.check_covers(principal, api_key["scopes"])
    alive = await _alive(session, principal, api_key["id"])
    material = _material(body.algorithm, body.public_key, _NOT_CHOSEN)
    _check_new(alive, material)
    _check_room(len(alive))
    key = _Key(body.algorithm, material, body.ends_at(clock.now()))
    rules.check_expiry(key.expires_at)
    return await _add(session, vault, principal, api_key["id"], key)


async def get(session: Session, principal: Principal, api_key: Record, signing_key_id: UUID) -> Record:
    """A key of this API key; raises ``NotFound``."""
    row = await repository.get(session, principal.organization_id, api_key["id"], signing_key_id)
    if row is None:
        raise NotFound("There is no signing key with this id.")
    return row


async def rotate(
    session: Session, vault: Vault, principal: Principal, api_key: Record, before: Record, body: SigningKeyRotate
) -> tuple[dict[str, Any], str | None]:
    """Make a key's successor; the old one expires after the overlap. As ``create``, and raises ``Conflict`` for a key
    that is revoked, has expired or has a successor that works.
    """
    rules.require_alive(api_key)
    rules.check_covers(principal, api_key["scopes"])
    alive = await _alive(session, principal, api_key["id"])
    if before["id"] not in {row["id"] for row in alive}:
        raise Conflict("The signing key is revoked or has expired; make a new one.", code="signing_key_ended")
    if before["id"] in {row["rotated_from"] for row in alive}:
        raise Conflict("The signing key has a successor already; rotate that one.", code="already_rotated")
    at_once = body.overlap_seconds == 0
    algorithm: Algorithm = before["algorithm"]
    material = _material(algorithm, body.public_key, _NOT_KEPT)
    _check_new(alive, material)
    _check_room(len(alive) - at_once)
    key = _Key(algorithm, material, body.expires_at, rotated_from=before["id"])
    rules.check_expiry(key.expires_at)
    made, secret = await _add(session, vault, principal, api_key["id"], key)
    ends_at = clock.now() + timedelta(seconds=body.overlap_seconds)
    if before["expires_at"] is not None:
        ends_at = min(ends_at, before["expires_at"])
    old = await _write(session, principal, before, {"expires_at": ends_at})
    event = SigningKeyRotated(api_key_id=api_key["id"], replaced_by=made["id"], overlap_ends_at=ends_at)
    publish(session, event, subject=old["id"], sequence=old["version"], principal=principal)
    if at_once:
        await _end(session, principal, old, "rotated")
    return made, secret


async def revoke(session: Session, principal: Principal, api_key: Record, before: Record) -> None:
    """Make a key worthless for good; revoking it again changes nothing.

    Raises ``Conflict`` (``signing_key_in_use``) for the last one that meets the API key's policy: its requests would
    all be refused from then on; and for the last of all while answers are signed.
    """
    if before["revoked_at"] is not None:
        return
    alive = await _alive(session, principal, api_key["id"])
    rest = [row for row in alive if row["id"] != before["id"]]
    policy: SignaturePolicy = api_key["signature_policy"]
    needed = can_be_signed(policy, _algorithms(alive)) and not can_be_signed(policy, _algorithms(rest))
    answering = api_key["sign_answers"] and bool(alive) and not rest
    if (needed or answering) and api_key["revoked_at"] is None:
        what = ("requests must be signed", "signature_policy") if needed else ("answers are signed", "sign_answers")
        raise Conflict(
            f"The API key's {what[0]}, and it has no other key for that. Rotate this one (overlap_seconds: 0 ends it at "
            f"once), or turn {what[1]} off.",
            code="signing_key_in_use",
        )
    await _end(session, principal, before, "revoked")


async def check_policy(session: Session, principal: Principal, api_key: Record, policy: SignaturePolicy) -> None:
    """Raise ``Conflict`` (``no_signing_key``) unless the API key's requests can be signed as ``policy`` asks."""
    alive = await _alive(session, principal, api_key["id"])
    if not can_be_signed(policy, _algorithms(alive)):
        raise Conflict(
            f"The API key has no signing key that this policy takes (v0 and both: hmac-sha256); {_make_one(api_key)}.",
            code="no_signing_key",
        )


async def check_answers(session: Session, principal: Principal, api_key: Record) -> None:
    """Raise ``Conflict`` (``no_signing_key``) unless the API key has a signing key that works, of either kind."""
    if not await _alive(session, principal, api_key["id"]):
        raise Conflict(
            f"The API key has no signing key, and answers are signed with one; {_make_one(api_key)}.",
            code="no_signing_key",
        )


async def copy(session: Session, vault: Vault, principal: Principal, source: UUID, target: UUID) -> None:
    """Give the API key ``target`` its own copies of the keys of ``source`` that work: the same secrets, other ids.

    Raises ``Conflict`` (``signing_key_unreadable``) when the platform's root secret was changed since.
    """
    for row in await _alive(session, principal, source):
        material: bytes = row["material"]
        if row["algorithm"] == "hmac-sha256":
            context = signing_key_context(principal.organization_id, row["id"])
            try:
                material = vault.open(material, context)
            except Unsealable:
                raise Conflict(
                    f"The secret of the signing key {row['id']} cannot be read any more; revoke it and make a new one.",
                    code="signing_key_unreadable",
                ) from None
        key = _Key(row["algorithm"], material, row["expires_at"], rotated_from=row["id"])
        await _add(session, vault, principal, target, key)


async def page(session: Session, principal: Principal, api_key: Record, query: PageParams) -> list[dict[str, Any]]:
    """What is shown of one key more than the page holds."""
    after = decode_moment_cursor(query.cursor, SORT) if query.cursor else None
    found = await repository.page(session, principal.organization_id, api_key["id"], after, query.limit + 1)
    return [shown(row) for row in found]


def shown(row: Record) -> dict[str, Any]:
    """What anybody may see of a key."""
    public_key = b64encode(row["material"]).decode() if row["algorithm"] == "ed25519" else None
    return {**{name: value for name, value in row.items() if name != "material"}, "public_key": public_key}


async def _add(
    session: Session, vault: Vault, principal: Principal, api_key_id: UUID, key: _Key
) -> tuple[dict[str, Any], str | None]:
    signing_key_id, now = new_id(), clock.now()
    secret = key.material.decode() if key.algorithm == "hmac-sha256" else None
    row: dict[str, Any] = {
        "id": signing_key_id,
        "api_key_id": api_key_id,
        "algorithm": key.algorithm,
        "material": key.material,
        "rotated_from": key.rotated_from,
        "created_by": rules.responsible_person(principal),
        "expires_at": key.expires_at,
        "revoked_at": None,
        "version": 1,
        "created_at": now,
        "updated_at": now,
    }
    organization_id = principal.organization_id
    if secret is not None:
        row["material"] = vault.seal(key.material, signing_key_context(organization_id, signing_key_id))
    await repository.add(session, {**row, "organization_id": organization_id})
    names = ("api_key_id", "algorithm", "expires_at", "rotated_from")
    event = SigningKeyCreated.model_validate({name: row[name] for name in names})
    publish(session, event, subject=signing_key_id, sequence=1, principal=principal)
    return shown(row), secret


async def _end(session: Session, principal: Principal, before: Record, reason: str) -> None:
    row = await _write(session, principal, before, {"revoked_at": clock.now()})
    event = SigningKeyRevoked(api_key_id=row["api_key_id"], reason=reason)
    publish(session, event, subject=row["id"], sequence=row["version"], principal=principal)


async def _write(session: Session, principal: Principal, before: Record, changed: Mapping[str, Any]) -> Record:
    changed = {**changed, "updated_at": clock.now()}
    return await repository.change(session, principal.organization_id, before["id"], changed)


async def _alive(session: Session, principal: Principal, api_key_id: UUID) -> list[Record]:
    return await repository.alive(session, principal.organization_id, api_key_id, clock.now())


def _make_one(api_key: Record) -> str:
    return f"make one first, with POST /v1/api-keys/{api_key['id']}/signing-keys and {{}}"


def _algorithms(keys: Iterable[Record]) -> set[str]:
    return {row["algorithm"] for row in keys}


def _check_new(alive: Iterable[Record], material: bytes) -> None:
    """One public key, one id: revoking a key must leave nothing that goes on taking its signatures.

    Secrets are always new. Of two requests at a time the second waits for the API key's lock, and finds the first's.
    """
    for row in alive:
        if row["algorithm"] == "ed25519" and row["material"] == material:
            raise Conflict(
                f"The API key has this public key already, as the signing key {row['id']}; use that, or send another.",
                code="signing_key_exists",
                signing_key_id=str(row["id"]),
            )


def _check_room(alive: int) -> None:
    if alive >= MOST_ALIVE:
        raise Conflict(
            f"The API key has {alive} signing keys that work, and {MOST_ALIVE} is the most; revoke one first.",
            code="too_many_signing_keys",
        )


def _material(algorithm: Algorithm, public_key: str | None, not_used: str) -> bytes:
    """What is to be stored of a new key. ``not_used`` is what to say of a public key beside a secret."""
    if algorithm == "hmac-sha256":
        if public_key is not None:
            raise _wrong_public_key("public_key_not_used", not_used)
        return new_secret().encode()
    if public_key is None:
        raise _wrong_public_key("public_key_required", "ed25519 needs the public_key of a pair that you made.")
    return b64decode(public_key)


def _wrong_public_key(code: str, detail: str) -> ValidationFailed:
    return ValidationFailed(detail, code=code, errors=[{"field": "/public_key", "code": code, "message": detail}])
