"""Safe retries: the answer to a keyed POST commits with the change it reports.

Follows draft-ietf-httpapi-idempotency-key-header: the same key with the same request answers what was
answered before (``Idempotency-Replayed: true``), with another request 422, and 409 while the first
one runs. Kept 24 hours, encrypted, because an answer may hold a secret that is shown once.
"""

import hashlib
import os
import re
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from fastapi import Request
from sqlalchemy import Column, DateTime, LargeBinary, MetaData, Table, Uuid
from starlette.responses import Response

from shared import clock
from shared.db.database import Database
from shared.db.session import Session
from shared.errors import BadRequest, Conflict, ValidationFailed
from shared.http.unit_of_work import UnitOfWork

KEPT = timedelta(hours=24)
_KEY = re.compile(r'^(?:"([\x20-\x21\x23-\x7e]{1,255})"|([\x21\x23-\x7e]{1,255}))$')
_REPLAYED_HEADERS = ("content-type", "etag", "location", "set-cookie")


def ddl(schema: str) -> list[str]:
    """The table of stored answers, for the service's first migration (protected like any tenant table)."""
    return [
        f"""CREATE TABLE {schema}.idempotency_keys (
  organization_id uuid NOT NULL,
  scope bytea NOT NULL,
  fingerprint bytea NOT NULL,
  answer bytea NOT NULL,
  created_at timestamptz NOT NULL,
  PRIMARY KEY (organization_id, scope)
)""",
        f"CREATE INDEX idempotency_keys_created_at_idx ON {schema}.idempotency_keys (created_at)",
        # As the owner: old answers of every organisation go, and the service's role sees those of one.
        f"""CREATE FUNCTION {schema}.purge_idempotency_keys(older_than timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ DELETE FROM {schema}.idempotency_keys WHERE created_at < older_than $$""",  # noqa: S608 (the schema is our own name)
        f"REVOKE ALL ON FUNCTION {schema}.purge_idempotency_keys(timestamptz) FROM public",
        f"GRANT EXECUTE ON FUNCTION {schema}.purge_idempotency_keys(timestamptz) TO svc_{schema}",
    ]


async def purge(database: Database) -> None:
    """Remove the answers that are no longer replayed; a job of the service's worker."""
    await database.pool.execute(f"SELECT {database.service}.purge_idempotency_keys($1)", clock.now() - KEPT)


async def once(
    raw_key: str,
    request: Request,
    unit: UnitOfWork,
    route: str,
    handler: Callable[[Request], Coroutine[Any, Any, Response]],
) -> Response:
    """Run ``handler`` unless this key has been answered; store its answer when it succeeds."""
    match = _KEY.match(raw_key)
    if match is None:
        raise BadRequest("Idempotency-Key must be 1 to 255 printable ASCII characters.", code="invalid_idempotency_key")
    key, principal = match[1] or match[2], unit.principal
    # Anonymous callers have no id: what one of them keyed must not stand in another one's way.
    caller = principal.actor_id if principal.actor_type != "anonymous" else principal.client_address or ""
    scope = _digest(str(principal.organization_id), principal.actor_type, caller, request.method, route, key)
    fingerprint = _digest(request.method, request.url.path, request.url.query, await request.body())
    session = await unit.begin()
    schema = unit.database.service
    if not await session.connection.fetchval(
        "SELECT pg_try_advisory_xact_lock($1)", int.from_bytes(scope[:8], signed=True)
    ):
        raise Conflict(
            "A request with this Idempotency-Key is still running; wait for its answer.",
            code="idempotency_in_progress",
            headers={"Retry-After": "1"},
        )
    box = AESGCMSIV(request.app.state.settings.derive_key(f"idempotency:{schema}"))
    stored = await _stored(session, schema, principal.organization_id, scope)
    if stored is not None:
        return _replay(box, stored, scope, fingerprint)
    response = await handler(request)
    if 200 <= response.status_code < 300:
        await _store(session, schema, principal.organization_id, scope, fingerprint, _seal(box, scope, response))
    return response


def _digest(*parts: str | bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8))
        digest.update(data)
    return digest.digest()


async def _stored(session: Session, schema: str, organization_id: Any, scope: bytes) -> Any:
    return await session.connection.fetchrow(
        f"SELECT fingerprint, answer FROM {schema}.idempotency_keys"  # noqa: S608 (the schema is our own name)
        " WHERE organization_id = $1 AND scope = $2 AND created_at > $3",
        organization_id,
        scope,
        clock.now() - KEPT,
    )


async def _store(
    session: Session, schema: str, organization_id: Any, scope: bytes, fingerprint: bytes, answer: bytes
) -> None:
    await session.connection.execute(
        f"INSERT INTO {schema}.idempotency_keys (organization_id, scope, fingerprint, answer, created_at)"  # noqa: S608
        " VALUES ($1, $2, $3, $4, $5) ON CONFLICT (organization_id, scope) DO UPDATE"
        " SET fingerprint = excluded.fingerprint, answer = excluded.answer, created_at = excluded.created_at",
        organization_id,
        scope,
        fingerprint,
        answer,
        clock.now(),
    )


def _seal(box: AESGCMSIV, scope: bytes, response: Response) -> bytes:
    headers = {name: response.headers[name] for name in _REPLAYED_HEADERS if name in response.headers}
    plain = orjson.dumps((response.status_code, headers, bytes(response.body).decode()))
    nonce = os.urandom(12)
    return nonce + box.encrypt(nonce, plain, scope)


def _replay(box: AESGCMSIV, stored: Any, scope: bytes, fingerprint: bytes) -> Response:
    if stored["fingerprint"] != fingerprint:
        raise ValidationFailed(
            "This Idempotency-Key was used for another request; use a new key for each new request.",
            code="idempotency_key_reused",
        )
    sealed: bytes = stored["answer"]
    status, headers, body = orjson.loads(box.decrypt(sealed[:12], sealed[12:], scope))
    return Response(body, status, {**headers, "Idempotency-Replayed": "true"})


def table(metadata: MetaData) -> Table:
    """The table as the service's metadata declares it."""
    return Table(
        "idempotency_keys",
        metadata,
        Column("organization_id", Uuid, primary_key=True),
        Column("scope", LargeBinary, primary_key=True),
        Column("fingerprint", LargeBinary, nullable=False),
        Column("answer", LargeBinary, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        info={"tenancy": "tenant"},
    )
