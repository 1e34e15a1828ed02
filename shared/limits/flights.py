"""Asking the database: one call at a time, which takes along everything that wants asking by then.

While a call is under way the next one fills up; under load that is what keeps calls few. A call that is late, or
fails, makes the client decide by itself (``away``) until one is answered again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from itertools import islice
from uuid import UUID

import structlog

from shared.db import Database
from shared.limits.bundle import Bundle
from shared.limits.cells import Cell, Lease, Settlement
from shared.limits.counters import Counters, Unreachable
from shared.limits.decision import Decision
from shared.limits.patience import TURNS
from shared.limits.slots import Slots

BATCH, RENEWALS = 250, 40
"""Cells in one call: few enough that it is answered within milliseconds. Who waits goes first, and what is only to be
renewed makes no call long that somebody might wait for."""
UNKNOWN_REPLICAS = 8
"""How many share a limit, as long as the database has not said so: a guess that rather admits too little."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 0.5
_SETTLED_AT_ONCE = 2_000
_STOP_SECONDS = 5.0
_random = random.Random()  # noqa: S311 (spreads retries)
_log = structlog.get_logger(__name__)


class Waiter:
    """A call that waits for cells to be asked."""

    __slots__ = ("bundle", "cells", "future")

    def __init__(self, bundle: Bundle, future: asyncio.Future[Decision]) -> None:
        self.bundle = bundle
        self.cells: list[Cell] = []
        self.future = future

    def cost_of(self, cell: Cell) -> int:
        """What it will take from a cell."""
        return next(cost for each, cost in self.bundle.enforced if each is cell)


class Flights:
    """The queue of what to ask and to settle, and the call under way."""

    def __init__(
        self,
        database: Database,
        schema: str,
        replica: UUID,
        *,
        late: float,
        clock: Callable[[], float],
        asked: Callable[[Cell], None],
    ) -> None:
        self.counters = Counters(database, schema, replica)
        self._clock = clock
        self._late = late
        self._asked = asked
        # In the order they are asked: what somebody waits for, what is running out, what is only to be renewed.
        self._urgent: dict[Cell, None] = {}
        self._asks: dict[Cell, None] = {}
        self._renewals: dict[Cell, None] = {}
        self._waiting: dict[Cell, list[Waiter]] = {}
        self._settlements: list[Settlement] = []
        self._flight: asyncio.Task[None] | None = None
        self._under_way: object | None = None
        self._is_late = self._stopping = False
        self._pause = 0.0
        self._paused_until = float("-inf")
        self.replicas = UNKNOWN_REPLICAS

    @property
    def away(self) -> bool:
        """Whether the database does not answer at present: nobody waits for it then."""
        return self._pause > 0 or self._is_late

    def ask(self, cell: Cell) -> None:
        """Ask about a cell with one of the next calls."""
        if not cell.asking:
            cell.asking = True
            self._asks[cell] = None
            self._take_off()
        elif cell in self._renewals:
            del self._renewals[cell]
            self._asks[cell] = None

    def renew(self, cell: Cell) -> None:
        """Ask about a cell when nothing else is to be asked."""
        if not cell.asking:
            cell.asking = True
            self._renewals[cell] = None
            self._take_off()

    def settle(self, settlement: Settlement | None) -> None:
        """Say with the next call what became of units."""
        if settlement is not None:
            self._settlements.append(settlement)

    async def wait(self, bundle: Bundle, lacking: Sequence[Cell], deadline: float) -> Decision:
        """Ask about the lacking cells and decide; without them when there is no answer by ``deadline``."""
        loop = asyncio.get_running_loop()
        waiter = Waiter(bundle, loop.create_future())
        self._queue(waiter, lacking)
        timer = loop.call_later(max(deadline - self._clock(), 0.0), self._run_out, waiter, TURNS)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled():
                waiter.future.result().release()  # admitted, and gone in the same moment
            raise
        finally:
            timer.cancel()
            self._leave(waiter)

    def warm_up(self) -> None:
        """Connect, before somebody waits for it."""
        self._take_off()

    @property
    def _asked_for(self) -> bool:
        return bool(self._urgent or self._asks or self._renewals)

    def tick(self) -> None:
        """Send what waits to be settled, and try again when the last call failed."""
        if self._settlements or self._asked_for:
            self._take_off()

    async def stop(self, give_back: Callable[[], None]) -> None:
        """Ask for nothing more, ``give_back``, and say that as long as it takes no more than a moment."""
        self._stopping = True
        for queue in (self._urgent, self._asks, self._renewals):
            queue.clear()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                if self._flight is not None:
                    await asyncio.wait({self._flight})
                give_back()  # after the last answer, which may have brought units
                while self._settlements or self._asks:
                    await self._call()
        except (TimeoutError, Unreachable) as error:
            _log.warning("limits_not_given_back", reason=str(error))
        if self._flight is not None:
            self._flight.cancel()
        self.counters.close()

    # -- the call ------------------------------------------------------------------------------------
    def _take_off(self) -> None:
        if not self._stopping and self._flight is None and self._clock() >= self._paused_until:
            self._flight = asyncio.create_task(self._fly(), name="limits-flight")

    async def _fly(self) -> None:
        try:
            await self._call()
            while self._settlements or self._asked_for:
                await self._call()
        except Unreachable as error:
            self._fail(error)
        except Exception as error:
            _log.exception("limits_call_failed")
            self._fail(error)
        finally:
            self._flight = None

    def _be_late(self, flight: object, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._be_late, flight, turns - 1)
        elif self._under_way is flight:
            self._is_late = True

    async def _call(self) -> None:
        flight = self._under_way = object()
        timer = asyncio.get_running_loop().call_later(self._late, self._be_late, flight, TURNS)
        try:
            await self._connect_and_ask()
        finally:
            timer.cancel()
            self._under_way, self._is_late = None, False

    async def _connect_and_ask(self) -> None:
        await self.counters.connect()
        now = self._clock()
        asked = self._pop()
        cells = [cell for cell in asked if not isinstance(cell, Slots)]
        slots = [cell for cell in asked if isinstance(cell, Slots)]
        try:
            if cells or self._settlements:
                await self._check(cells, now)
            if slots:
                await self._hold(slots)
        finally:
            for cell in asked:
                cell.asking = False
                self._asked(cell)
        if self._pause:
            _log.info("limits_answered_again")
        self._pause = 0.0
        for cell in asked:
            self._wake(cell)

    def _pop(self) -> list[Cell]:
        """The cells of one call: those that somebody waits for first."""
        asked: list[Cell] = []
        for queue, most in ((self._urgent, BATCH), (self._asks, BATCH), (self._renewals, RENEWALS)):
            found = list(islice(queue, max(most - len(asked), 0)))
            for cell in found:
                del queue[cell]
            asked += found
        return asked

    def _wants(self, cell: Cell, now: float) -> tuple[int, int]:
        waiters = self._waiting.get(cell)
        return cell.wants(now, sum(each.cost_of(cell) for each in waiters) if waiters else 0)

    async def _check(self, cells: Sequence[Cell], now: float) -> None:
        for cell in cells:
            self.settle(cell.roll(now))
        wanted = [self._wants(cell, now) for cell in cells]
        said, self._settlements = self._settlements[:_SETTLED_AT_ONCE], self._settlements[_SETTLED_AT_ONCE:]
        leases = await self.counters.check(cells, wanted, said, now)
        took = self._clock() - now
        for cell, lease in zip(cells, leases, strict=True):
            self._receive(cell, lease, took)

    def _receive(self, cell: Cell, lease: Lease, took: float) -> None:
        cell.receive(lease, took)
        self.replicas = lease.replicas
        if cell.revoked_at >= lease.asked_at:
            # A change was announced meanwhile; this may be the answer to the question before it.
            self.settle(cell.revoke(cell.revoked_at))

    async def _hold(self, slots: Sequence[Slots]) -> None:
        now = self._clock()
        wanted = [self._wants(cell, now) for cell in slots]
        answers = await self.counters.hold(slots, wanted)
        for cell, (need, want), (held, remaining, replicas) in zip(slots, wanted, answers, strict=True):
            cell.hold(held, remaining, replicas, need, now)
            if want == 0:
                cell.settle(now)

    # -- who waits -----------------------------------------------------------------------------------
    def _queue(self, waiter: Waiter, lacking: Sequence[Cell]) -> None:
        waiter.cells += lacking
        for cell in lacking:
            self._waiting.setdefault(cell, []).append(waiter)
            if not cell.asking or cell in self._asks or cell in self._renewals:
                cell.asking = True
                self._asks.pop(cell, None)
                self._renewals.pop(cell, None)
                self._urgent[cell] = None
        self._take_off()

    def _leave(self, waiter: Waiter) -> None:
        for cell in waiter.cells:
            others = self._waiting.get(cell, [])
            if waiter in others:
                others.remove(waiter)
            if not others:
                self._waiting.pop(cell, None)
        waiter.cells = []

    def _resolve(self, waiter: Waiter, decision: Decision) -> None:
        self._leave(waiter)
        waiter.future.set_result(decision)

    def _wake(self, cell: Cell) -> None:
        """Decide the calls that wait for this cell, in the order they came."""
        for waiter in list(self._waiting.get(cell, ())):
            now = self._clock()
            if waiter.future.done():
                self._leave(waiter)  # whoever waited has left
            elif waiter.bundle.refusing(now):
                self._resolve(waiter, waiter.bundle.refuse(now, "database"))
            elif lacking := waiter.bundle.lacking(now):
                self._leave(waiter)
                self._queue(waiter, lacking)
            else:
                self._resolve(waiter, waiter.bundle.admit(now, "database"))
        if cell.policy.mode == "strict" and not isinstance(cell, Slots):
            cell.refused_until = float("-inf")
            self.settle(cell.settle(self._clock()))

    def _run_out(self, waiter: Waiter, turns: int) -> None:
        if turns and not waiter.future.done():
            asyncio.get_running_loop().call_soon(self._run_out, waiter, turns - 1)
        else:
            self._give_up(waiter)

    def _give_up(self, waiter: Waiter) -> None:
        if not waiter.future.done():
            self._resolve(waiter, waiter.bundle.fall_back(self._clock()))

    def _fail(self, error: Exception) -> None:
        if not self._pause:
            _log.warning("limits_unreachable", reason=str(error))
        self._pause = min(max(self._pause * 2, _SHORTEST_PAUSE), _LONGEST_PAUSE)
        self._paused_until = self._clock() + self._pause * _random.uniform(0.5, 1.0)
        for queue in (self._urgent, self._asks, self._renewals):
            for cell in queue:
                cell.asking = False
                self._asked(cell)
            queue.clear()
        for waiter in {id(each): each for waiters in self._waiting.values() for each in waiters}.values():
            self._give_up(waiter)
