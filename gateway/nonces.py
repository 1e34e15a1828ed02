"""Signatures are good once, whichever gateway process sees them: the database remembers their nonces until they expire.

Requests that arrive together are asked about together; one question is under way at a time. What this process has seen
itself it refuses without asking.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from typing import Any, NamedTuple

from shared.db import Database
from shared.db.database import AWAY
from shared.errors import ServiceUnavailable

logger = logging.getLogger(__name__)

# Arrays as text: the driver writes a text at once, and an array one element after the other.
SQL = (
    "SELECT identity.remember_nonces(string_to_array($1, ' ')::uuid[], string_to_array($2, ' '), "
    "string_to_array($3, ' ')::float8[], string_to_array($4, ' ')::float8[])"
)
SPEND = "SELECT identity.spend_nonce($1::text::uuid, $2, $3)"
IS_SPENT = "SELECT identity.is_nonce_spent($1::text::uuid, $2)"
AT_ONCE = 500
MOST_WAITING = 10 * AT_ONCE
_CAPACITY = 100_000
_ANSWER_SECONDS = 2.0
_AGAIN_SECONDS = 0.2


class Nonce(NamedTuple):
    """What makes a signature of a key unique: no spaces in it; ``created`` and ``until`` in unix seconds."""

    key_id: str
    text: str
    created: int
    until: int


class Nonces:
    """``remember`` for each signature that holds. ``asked`` counts questions to the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop: asyncio.AbstractEventLoop
        self._waiting: list[tuple[Nonce, asyncio.Future[bool | None]]] = []
        self._asking: asyncio.Task[None] | None = None
        self._beginning: asyncio.Task[None] | None = None
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self.asked = 0

    async def remember(self, nonce: Nonce) -> bool | None:
        """Whether it is new; from now on it is not. None for one from before a crash of the database, which forgot.

        Raises ``ServiceUnavailable`` when the database cannot be asked.
        """
        if (nonce.key_id, nonce.text) in self._seen:
            return False
        if len(self._waiting) >= MOST_WAITING:
            raise _unknown()
        if self._asking is None:
            self._loop = asyncio.get_running_loop()
            self._asking = self._loop.create_task(self._ask_on(), name="gateway-nonces")
        answer: asyncio.Future[bool | None] = self._loop.create_future()
        self._waiting.append((nonce, answer))
        return await answer

    async def spend(self, nonce: Nonce) -> None:
        """What it was accepted for was refused for good: it is not good for another sending.

        Also when its client leaves meanwhile. Raises ``ServiceUnavailable`` when that cannot be remembered.
        """
        try:
            await asyncio.shield(self._fetch(SPEND, nonce.key_id, nonce.text, float(nonce.until)))
        except (ServiceUnavailable, *AWAY) as error:
            logger.warning("that a signature is spent cannot be remembered: %s", error)
            raise ServiceUnavailable("The answer cannot be made final right now; try again shortly.") from None

    async def is_spent(self, nonce: Nonce) -> bool:
        """Whether ``spend`` was called for it, by whichever process. Raises ``ServiceUnavailable``."""
        try:
            return bool(await self._fetch(IS_SPENT, nonce.key_id, nonce.text))
        except (ServiceUnavailable, *AWAY) as error:
            logger.warning("whether a signature is spent cannot be told: %s", error)
            raise _unknown() from None

    def begin(self) -> None:
        """The database was found, perhaps again: let it remember from now on, not from the next signature on."""
        if self._beginning is None or self._beginning.done():
            self._beginning = asyncio.get_running_loop().create_task(self._begin(), name="gateway-nonces-begin")

    async def stop(self) -> None:
        """Ask for nothing more."""
        for task in (self._asking, self._beginning):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _begin(self) -> None:
        while True:  # the pool may have connections from before
            try:
                await self._call([])
            except (ServiceUnavailable, *AWAY):
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return

    async def _ask_on(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                await self._ask(batch)
        finally:
            self._asking = None

    async def _ask(self, batch: list[tuple[Nonce, asyncio.Future[bool | None]]]) -> None:
        self.asked += 1
        try:
            fresh = await self._call([nonce for nonce, _ in batch])
        except (ServiceUnavailable, *AWAY) as error:
            logger.warning("whether signatures are new cannot be told: %s", error)
            late, self._waiting = self._waiting, []  # they would wait for the same
            for _, answer in (*batch, *late):
                if not answer.done():
                    answer.set_exception(_unknown())
            return
        for (nonce, answer), is_new in zip(batch, fresh, strict=True):
            if is_new is not None:
                self._seen[nonce.key_id, nonce.text] = None
            if not answer.done():
                answer.set_result(is_new)
        while len(self._seen) > _CAPACITY:
            self._seen.popitem(last=False)

    async def _call(self, nonces: list[Nonce]) -> Any:
        columns = zip(*nonces, strict=True) if nonces else [()] * len(Nonce._fields)
        return await self._fetch(SQL, *(" ".join(map(str, column)) for column in columns))

    async def _fetch(self, sql: str, *arguments: object) -> Any:
        async with self._database.pool.acquire(timeout=_ANSWER_SECONDS) as connection:
            return await connection.fetchval(sql, *arguments, timeout=_ANSWER_SECONDS)


def _unknown() -> ServiceUnavailable:
    return ServiceUnavailable("Whether this signature was used before cannot be told right now; try again shortly.")
