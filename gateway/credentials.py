"""Credentials in memory: what the database said about keys and sessions, and for how long that is believed.

A lookup happens once however many requests wait for it. An entry is forgotten the moment the database
notifies a change. A yes is therefore older than ``LIFE_DEAF`` only while the listener is known to have heard
everything up to ``HEARING_SECONDS`` ago: a revoked credential ends after the longer of the two.

While the database does not answer, a revocation could not be heard of: callers are refused (503). With a grace
(``GUARDIAN_CREDENTIAL_GRACE_SECONDS``) what was right when it was last heard goes on for so long instead; a gateway that
is cut off from a database which others reach may then be wrong for so long.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg

from gateway.signatures import Signing, signing_of
from shared.auth import ActorType, Claims, Principal
from shared.db import Database
from shared.db.database import AWAY
from shared.db.hearing import HEARING_SECONDS, Hearing
from shared.errors import ServiceUnavailable
from shared.ids import NIL
from shared.limits.metering import caller_of
from shared.limits.policies import Caller
from shared.vault import Vault

logger = logging.getLogger(__name__)

CHANNEL = "guardian_credentials"
LIFE_LISTENING = 300.0
LIFE_DEAF = HEARING_SECONDS
LIFE_UNKNOWN = 5.0
_CAPACITY = 20_000
_LOOKUPS_AT_ONCE = 64
_LOOKUP_SECONDS = 2.0
_PATIENCE = 0.25
"""How long somebody who could go on with what is remembered waits for the database, the first time it does not answer."""
_AGAIN_SECONDS = 0.5

KEY_SQL = (
    "SELECT public_id, secret_sha256, organization_id, actor_id, actor_type, scopes, expires_at, disabled, "
    "on_behalf_of, signature_policy, sign_answers, signing_keys FROM identity.resolve_api_key($1)"
)
SESSION_SQL = (
    "SELECT token_sha256, organization_id, actor_id, scopes, expires_at, authenticated_at "
    "FROM identity.resolve_session($1)"
)


@dataclass(slots=True)
class Credential:
    """What a key or session stands for. Times are unix seconds, ``fetched_at`` is monotonic.

    ``principal``, ``caller`` (for limits) and ``claims`` (by service) are made once for all of its calls.
    """

    sha256: bytes
    organization_id: UUID
    actor_type: ActorType
    actor_id: str
    scopes: frozenset[str]
    expires_at: float
    fetched_at: float
    disabled: bool = False
    on_behalf_of: str | None = None
    session_id: str | None = None
    authenticated_at: int = 0
    signing: Signing | None = None
    principal: Principal = field(init=False)
    caller: Caller | None = field(init=False)
    claims: dict[str, Claims] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.principal = Principal(
            self.organization_id,
            self.actor_type,
            self.actor_id,
            self.scopes,
            "api_key" if self.session_id is None else "session",
            self.authenticated_at,
            self.on_behalf_of,
            self.session_id,
        )
        self.caller = caller_of(self.principal)

    def allows_all_of(self, before: Credential, then: float) -> bool:
        """Whether its caller may do all that the same one might ``then``, and sign with the same keys."""
        if self.principal != before.principal:
            return False
        if self.signing is None or before.signing is None:
            return self.signing is before.signing
        return self.signing.takes_all_of(before.signing, then, time.time())


Fetch = Callable[[bytes], Awaitable[Credential | None]]


class Cache:
    """Bounded memory of one kind of credential, by public id or token hash. ``grace`` is in seconds."""

    def __init__(self, fetch: Fetch, hearing: Hearing, grace: float = 0.0) -> None:
        self._fetch = fetch
        self._grace = grace
        self._hearing = hearing
        self._clock = hearing.clock
        self._known: dict[bytes, Credential] = {}
        self._unknown: dict[bytes, float] = {}
        self._pending: dict[bytes, asyncio.Task[Credential | None]] = {}
        self._away = False
        self._again_at = 0.0
        self.lookups = 0

    def peek(self, key: bytes) -> Credential | None:
        """The entry, when there is one that may still be believed."""
        entry = self._known.get(key)
        if entry is not None and self._believed(entry.fetched_at, LIFE_LISTENING):
            return entry
        return None

    def _believed(self, asked_at: float, life: float) -> bool:
        now = self._clock()
        return now - asked_at <= (life if self._hearing.fresh(now) else LIFE_DEAF)

    async def resolve(self, key: bytes) -> Credential | None:
        """The credential, None when there is none; raises ``ServiceUnavailable``."""
        if key in self._known and not self._away:
            await self._hearing.catch_up()
        entry = self.peek(key)
        if entry is not None:
            return entry
        refused_at = self._unknown.get(key)
        if refused_at is not None and self._believed(refused_at, LIFE_UNKNOWN):
            return None
        if self._away and self._by_grace(key) is not None:
            if not self._pending and self._clock() >= self._again_at:
                self._begin(key)
            return self._by_grace(key)
        return await self._wait_for(self._pending.get(key) or self._begin(key), key)

    def _by_grace(self, key: bytes) -> Credential | None:
        """What was remembered when the database was last heard, if that is not too long ago."""
        entry = self._known.get(key)
        if entry is None or self._clock() - max(entry.fetched_at, self._hearing.last) >= self._grace:
            return None
        return entry

    def _begin(self, key: bytes) -> asyncio.Task[Credential | None]:
        if len(self._pending) >= _LOOKUPS_AT_ONCE:
            raise ServiceUnavailable("Too many new credentials at once; try again shortly.", retry_after=1)
        task = self._pending[key] = asyncio.create_task(self._look_up(key))
        task.add_done_callback(_retrieve)
        return task

    async def _wait_for(self, task: asyncio.Task[Credential | None], key: bytes) -> Credential | None:
        # Not cancelled: the one who asked first may leave while others wait for the same answer.
        await asyncio.wait({task}, timeout=_PATIENCE if self._by_grace(key) is not None else _LOOKUP_SECONDS)
        try:
            if not task.done():
                raise _unchecked()
            return task.result()
        except ServiceUnavailable:
            entry = self._by_grace(key)
            if entry is None:
                raise
            self._away = True
            return entry

    async def _look_up(self, key: bytes) -> Credential | None:
        this = asyncio.current_task()
        self.lookups += 1
        asked_at = self._clock()
        try:
            found = await self._fetch(key)
            self._away = False
            current = self._pending.get(key) is this  # not overtaken by an invalidation
            if current:
                self._remember(key, found, asked_at)
            # What was asked long ago may have changed since: believed like anything else in memory.
            if not self._believed(asked_at, LIFE_LISTENING if current else LIFE_DEAF):
                raise _unchecked()
            return found
        finally:
            self._again_at = self._clock() + _AGAIN_SECONDS
            if self._pending.get(key) is this:
                del self._pending[key]

    def _remember(self, key: bytes, found: Credential | None, asked_at: float) -> None:
        if found is None:
            self._known.pop(key, None)
            _make_room(self._unknown)
            self._unknown[key] = asked_at
        else:
            found.fetched_at = asked_at
            self._unknown.pop(key, None)
            self._known.pop(key, None)
            _make_room(self._known)
            self._known[key] = found

    def forget(self, key: bytes) -> None:
        """Believe nothing about ``key`` any more, nor what is just being looked up."""
        self._known.pop(key, None)
        self._unknown.pop(key, None)
        self._pending.pop(key, None)

    def forget_where(self, condition: Callable[[Credential], bool]) -> None:
        """Forget the entries that meet ``condition``; lookups under way may be about one of them."""
        for key in [key for key, entry in self._known.items() if condition(entry)]:
            del self._known[key]
        self._pending.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()
        self._unknown.clear()
        self._pending.clear()


class Credentials:
    """The keys and sessions of every organisation, as far as they were asked for."""

    def __init__(self, database: Database, vault: Vault, grace: float = 0.0) -> None:
        self._database = database
        self._vault = vault
        self.hearing = Hearing()
        self.keys = Cache(self._fetch_key, self.hearing, grace)
        self.sessions = Cache(self._fetch_session, self.hearing, grace)

    def heard(self, payload: str) -> None:
        """Act on a notification: ``key:…``, ``session:…``, ``user:…``, ``organization:…``, or everything."""
        kind, _, value = payload.partition(":")
        if kind == "key":
            self.keys.forget(value.encode())
        elif kind == "session" and len(value) == 64:
            self.sessions.forget(bytes.fromhex(value))
        elif kind == "user":
            self._forget_where(lambda entry: value in (entry.actor_id, entry.on_behalf_of))
        elif kind == "organization":
            self._forget_where(lambda entry: str(entry.organization_id) == value)
        else:
            self._clear()

    def listening(self, state: bool) -> None:
        """The listener was found (what it missed is unknown, so all is forgotten) or lost."""
        if state:
            self._clear()
        else:
            self.hearing.lose()

    def _forget_where(self, condition: Callable[[Credential], bool]) -> None:
        self.keys.forget_where(condition)
        self.sessions.forget_where(condition)

    def _clear(self) -> None:
        self.keys.clear()
        self.sessions.clear()

    async def _fetch_key(self, public_id: bytes) -> Credential | None:
        row = await self._ask(KEY_SQL, public_id.decode("ascii"))
        if row is None:
            return None
        behalf, organization_id = row["on_behalf_of"], _plain(row["organization_id"])
        return Credential(
            sha256=row["secret_sha256"],
            organization_id=organization_id,
            actor_type="api_key",
            actor_id=row["actor_id"],
            scopes=frozenset(row["scopes"]),
            expires_at=row["expires_at"].timestamp() if row["expires_at"] else float("inf"),
            fetched_at=0.0,
            disabled=row["disabled"],
            on_behalf_of=str(behalf) if behalf else None,
            signing=signing_of(
                row["signature_policy"], row["signing_keys"], organization_id, self._vault, answers=row["sign_answers"]
            ),
        )

    async def _fetch_session(self, token_sha256: bytes) -> Credential | None:
        row = await self._ask(SESSION_SQL, token_sha256)
        if row is None:
            return None
        return Credential(
            sha256=row["token_sha256"],
            organization_id=_plain(row["organization_id"] or NIL),
            actor_type="user",
            actor_id=row["actor_id"],
            scopes=frozenset(row["scopes"]),
            expires_at=row["expires_at"].timestamp(),
            fetched_at=0.0,
            session_id=row["token_sha256"].hex(),
            authenticated_at=int(row["authenticated_at"].timestamp()),
        )

    async def _ask(self, sql: str, argument: str | bytes) -> asyncpg.Record | None:
        try:
            async with self._database.pool.acquire(timeout=_LOOKUP_SECONDS) as connection:
                return await connection.fetchrow(sql, argument, timeout=_LOOKUP_SECONDS)
        except AWAY as error:
            logger.warning("credentials cannot be looked up: %s", error)
            raise _unchecked() from error


def _unchecked() -> ServiceUnavailable:
    return ServiceUnavailable("Credentials cannot be checked right now; try again shortly.")


def _plain(value: UUID) -> UUID:
    # asyncpg's own UUID is a subclass, which orjson refuses.
    return UUID(int=value.int)


def _make_room(entries: dict[bytes, Any]) -> None:
    if len(entries) >= _CAPACITY:
        del entries[next(iter(entries))]


def _retrieve(task: asyncio.Task[Credential | None]) -> None:
    # Marks an error as seen, should everybody who waited for it have left.
    if not task.cancelled():
        task.exception()
