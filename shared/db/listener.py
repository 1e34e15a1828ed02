"""Hears of changes: one LISTEN connection, checked by a heartbeat, found again when lost.

How old the last heartbeat may be is for ``Hearing`` to say. Here an unanswered one only decides when to look
for another connection, and that is done late: finding one means to forget everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import Any

from shared.db.database import AWAY, Database

logger = logging.getLogger(__name__)

_HEARTBEAT_SECONDS = 0.3
_ANSWER_SECONDS = 2.0
_random = random.Random()  # noqa: S311 (spreads reconnects)
_LONGEST_PAUSE = 1.0


class Listener:
    """Calls ``heard(payload)`` for each notification on ``channel``, ``listening(True | False)`` as it comes and goes, and
    ``heard_until(moment)`` (monotonic) when everything notified before that moment has been passed on.
    """

    def __init__(
        self,
        database: Database,
        channel: str,
        heard: Callable[[str], None],
        listening: Callable[[bool], None],
        heard_until: Callable[[float], None],
    ) -> None:
        self._database = database
        self._channel = channel
        self._heard = heard
        self._announce = listening
        self._heard_until = heard_until
        self._task: asyncio.Task[None] | None = None
        self.connected = False

    def start(self) -> None:
        """Begin listening in a task of its own."""
        self._task = asyncio.create_task(self._run(), name=f"listener-{self._channel}")

    async def stop(self) -> None:
        """Stop listening and wait until the connection is closed."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        pause = 0.05
        while True:
            try:
                await self._listen()
            except AWAY as error:
                if self.connected or pause == 0.05:
                    logger.warning("not listening on %s: %s", self._channel, error)
                pause = 0.05 if self.connected else min(pause * 2, _LONGEST_PAUSE)
            finally:
                self._set_connected(False)
            await asyncio.sleep(pause * _random.uniform(0.5, 1.0))

    async def _listen(self) -> None:
        connection = await self._database.connect()
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            sent = time.monotonic()
            await connection.add_listener(self._channel, self._on_notification)
            self._set_connected(True)
            while True:
                self._heard_until(sent)
                # Counted from the sending: an answer that came late is followed by a heartbeat at once.
                pause = sent + _HEARTBEAT_SECONDS - time.monotonic()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(lost.wait(), max(pause, 0.01))
                if lost.is_set():
                    raise ConnectionResetError("the database closed the connection")
                # A peer that vanished without a word is only noticed by asking it something.
                sent = time.monotonic()
                await connection.fetchval("SELECT 1", timeout=_ANSWER_SECONDS)
        finally:
            connection.terminate()

    def _on_notification(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        self._heard(str(payload))

    def _set_connected(self, state: bool) -> None:
        if state != self.connected:
            self.connected = state
            self._announce(state)
