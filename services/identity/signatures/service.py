"""The use case: what is wrong with a signed request. Nothing is changed, and no nonce is used up."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from math import ceil
from typing import NamedTuple
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.identity.api_keys import service as api_keys
from services.identity.signatures import repository
from services.identity.signatures.domain import explain as domain
from services.identity.signatures.domain.explanation import Elsewhere, Ended, Explanation, Keys
from services.identity.signatures.domain.request import Sent, request_of, target_of
from services.identity.signatures.domain.rfc9421 import key_id_of
from services.identity.signatures.schemas import SignedRequest
from shared import clock
from shared.auth import Principal
from shared.db import Record, Session
from shared.errors import Forbidden
from shared.signing.keys import HMAC, PublicKey, SharedSecret, Verifier
from shared.vault import Unsealable, Vault, signing_key_context

logger = logging.getLogger(__name__)

# One explanation at a time: trying all mistakes takes a processor tens of milliseconds.
_thread = ThreadPoolExecutor(1, thread_name_prefix="explain-signature")


class Question(NamedTuple):
    """All that an explanation needs. ``ended``: what the gateway says of an API key that is worth nothing ``at`` that time
    (unix seconds).
    """

    sent: Sent
    policy: domain.Policy
    keys: Keys
    at: float
    ended: tuple[str, str] | None


async def ask(session: Session, vault: Vault, principal: Principal, body: SignedRequest) -> Question:
    """Read what is needed. Raises ``NotFound``, and ``Forbidden`` (``live_key``): a live key's signatures are explained
    to nobody, because that helps whoever tries to forge one.
    """
    api_key = await api_keys.get(session, principal, body.api_key_id)
    if api_key["mode"] != "test":
        raise Forbidden(
            'Signatures of a live key are not explained. Make a test key (POST /v1/api-keys with "mode": "test") and a '
            "signing key for it, and sign the same request with that.",
            code="live_key",
        )
    at = clock.now() if body.at is None else datetime.fromtimestamp(body.at, UTC)
    sent = request_of(body.method, target_of(body.url), body.headers, body.body())
    keys = await _keys(session, vault, principal, api_key["id"], key_id_of(sent), at)
    return Question(sent, api_key["signature_policy"], keys, at.timestamp(), _ended(api_key, at))


async def explain(question: Question) -> Explanation:
    """The answer."""
    return await asyncio.get_running_loop().run_in_executor(_thread, domain.explain, *question)


async def _keys(
    session: Session, vault: Vault, principal: Principal, api_key_id: UUID, key_id: str | None, at: datetime
) -> Keys:
    organization_id = principal.organization_id
    good: list[Verifier] = []
    unreadable = []
    rows = await repository.good(session, organization_id, api_key_id, at)
    for row in rows:
        key = _verifier(vault, organization_id, row)
        if key is None:
            unreadable.append(str(row["id"]))
        else:
            good.append(key)
    ended = [
        _ended_key(vault, organization_id, row, at, _made_of(row["id"], rows))
        for row in await repository.ended(session, organization_id, api_key_id, at)
    ]
    former = [each for each in ended if each is not None]
    found = Keys(str(api_key_id), good, unreadable=unreadable, former=former)
    named = _uuid(key_id)
    if named is None or found.good_one(str(named)) is not None:
        return found
    other = await repository.named(session, organization_id, named)
    if other is None:
        return found
    if other["api_key_id"] != api_key_id:
        return replace(found, elsewhere=await _elsewhere(session, vault, principal, other, _made_of(named, rows)))
    return replace(found, ended=_ended_key(vault, organization_id, other, at, _made_of(named, rows)))


def _made_of(key_id: UUID, rows: Sequence[Record]) -> str | None:
    return next((str(row["id"]) for row in rows if row["rotated_from"] == key_id), None)


async def _elsewhere(session: Session, vault: Vault, principal: Principal, row: Record, copy: str | None) -> Elsewhere:
    """Whoever may ask here may list all API keys of the organisation, so this one may be named. Of a live one nothing
    but the name: its signatures are explained to nobody.
    """
    api_key = await api_keys.get(session, principal, row["api_key_id"])
    live = api_key["mode"] != "test"
    key = None if live else _verifier(vault, principal.organization_id, row)
    return Elsewhere(str(row["id"]), str(row["api_key_id"]), live, key, copy)


def _verifier(vault: Vault, organization_id: UUID, row: Record) -> Verifier | None:
    """The key itself; None: it cannot be read, and the gateway does not know it either."""
    key_id, material = str(row["id"]), row["material"]
    try:
        if row["algorithm"] == HMAC:
            return SharedSecret(key_id, vault.open(material, signing_key_context(organization_id, row["id"])))
        return PublicKey(key_id, Ed25519PublicKey.from_public_bytes(material))
    except (Unsealable, ValueError):
        logger.warning("the signing key %s cannot be read: was the root secret changed?", key_id)
        return None


def _ended_key(vault: Vault, organization_id: UUID, row: Record, at: datetime, successor: str | None) -> Ended | None:
    key = _verifier(vault, organization_id, row)
    ends = [(row["revoked_at"], "was revoked"), (row["expires_at"], "expired")]
    before = [(moment, what) for moment, what in ends if moment is not None and moment <= at]
    if key is None or not before:
        return None
    moment, what = min(before)
    if successor is not None:
        what = "was replaced, and ended"
    return Ended(key, f"{what} {ceil((at - moment).total_seconds())} s before the request", successor)


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text or "")
    except ValueError:
        return None


def _ended(api_key: Record, at: datetime) -> tuple[str, str] | None:
    """As the gateway answers before it looks at a signature."""
    if api_key["revoked_at"] is not None and api_key["revoked_at"] <= at:
        return "api_key_revoked", "The API key has been revoked."
    ends = [moment for moment in (api_key["expires_at"], api_key["overlap_ends_at"]) if moment is not None]
    if ends and min(ends) <= at:
        if api_key["overlap_ends_at"] == min(ends):
            says = f"The API key's overlap has ended; use its successor, {api_key['replaced_by']}."
            return "api_key_expired", says
        return "api_key_expired", "The API key has expired."
    return None
