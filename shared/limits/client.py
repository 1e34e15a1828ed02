"""The lease client: every process that enforces limits has one, and each is a replica.

A call whose limits all hold enough units is decided here and now, without a database. Otherwise it waits until the
database was asked, together with everybody else who waits then, and for ``PATIENCE_SECONDS`` at most. How leases are
sized, shared, called back and fenced is in docs/adr/0018.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from shared.db import Database
from shared.db.hearing import HEARING_SECONDS, Hearing
from shared.db.listener import Listener
from shared.ids import new_id
from shared.limits.bundle import Bundle
from shared.limits.cells import Cell, Key
from shared.limits.decision import Decision
from shared.limits.definitions import DefinitionCache, Definitions
from shared.limits.flights import Flights
from shared.limits.patience import PATIENCE_SECONDS
from shared.limits.policies import Caller, Operation, Policy
from shared.limits.slots import Slots
from shared.limits.wheel import Wheel

CHANNEL = "guardian_limits"
TICK_SECONDS = 0.1
FORGET_SECONDS = 60.0
_BUNDLES = 20_000
_log = structlog.get_logger(__name__)


class Limits:
    """Decides calls against the policies of their organisation (``check``) or of the platform itself (``take``).

    ``schema`` is that of the service whose functions are called, ``default_plan`` what an organisation without a plan
    is on. A call waits for the database for ``patience`` seconds at most. ``clock`` is monotonic.
    """

    def __init__(
        self,
        database: Database,
        *,
        schema: str,
        default_plan: str,
        patience: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._patience = patience
        self.replica = new_id()
        self.hearing = Hearing(clock)
        self._definitions = DefinitionCache(database, self.hearing, schema=schema, default_plan=default_plan)
        self._listener = Listener(database, CHANNEL, self._heard, self._listening, self.hearing.heard_until)
        self.flights = Flights(database, schema, self.replica, late=patience, clock=clock, asked=self._watch)
        self._wheel = Wheel(TICK_SECONDS)
        self._cells: dict[Key, Cell] = {}
        self._bundles: defaultdict[Operation, dict[str | None, Bundle]] = defaultdict(dict)
        self._bundled = 0
        self._ticking: asyncio.Task[None] | None = None
        self._running = self._listening_begun = False
        self.fallbacks = 0

    async def start(self, *, at_once: bool = True) -> None:
        """Begin to listen for changes and to renew leases; unless ``at_once``, when the first call needs it."""
        self._running = True
        if at_once:
            self._listen()
            self._renew()
            self.flights.warm_up()

    def _listen(self) -> None:
        if self._running and not self._listening_begun:
            self._listening_begun = True
            self._listener.start()

    def _renew(self) -> None:
        if self._running and self._ticking is None:
            self._ticking = asyncio.create_task(self._tick_on(), name="limits-tick")

    async def stop(self) -> None:
        """Give everything back that is held."""
        self._running = self._listening_begun = False
        ticking, self._ticking = self._ticking, None
        if ticking is not None:
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking
        await self._listener.stop()
        self._definitions.close()
        await self.flights.stop(self._give_all_back)

    def _give_all_back(self) -> None:
        now = self._clock()
        for cell in self._cells.values():
            cell.asking = False
            self.flights.settle(cell.settle(now))
            if isinstance(cell, Slots) and not cell.running:
                cell.touched = False
                self.flights.ask(cell)

    @property
    def held(self) -> int:
        """How many limits this process holds something of."""
        return len(self._cells)

    async def check(self, caller: Caller, operation: Operation, cost: int | None = None) -> Decision:
        """Whether the call is within every limit of its organisation; takes from them when it is.

        Takes what the operation costs. With a ``cost``, in units, it is about more work of a call that was counted
        already: weighted limits give so much, and others have nothing to do with it. Never raises for what is refused.
        """
        now = self._clock()
        bundle = self._bundles[operation].get(caller.key_id or caller.user_id) if cost is None else None
        if (
            bundle is not None
            and bundle.caller == caller
            and now < bundle.definitions.until
            and now - self.hearing.at <= HEARING_SECONDS
        ):
            for cell, price in bundle.enforced:
                if cell.left < price or now >= cell.expires:
                    if now < cell.refused_until:
                        return bundle.deny(now)
                    break
            else:
                if not bundle.plain:
                    decision = bundle.admit(now, "lease")
                    self._look_ahead(bundle)
                    return decision
                for cell, price in bundle.enforced:
                    if cell.left - price <= cell.low and not cell.asking:
                        self.flights.ask(cell)
                return bundle.spend(now)
        return await self._check_slowly(caller, operation, cost, now)

    async def take(self, wanted: Sequence[tuple[Policy, str]], cost: int = 1) -> Decision:
        """Like ``check``, for given policies and subjects."""
        bundle = Bundle([(self._cell(policy, subject), cost) for policy, subject in wanted])
        return await self._decide(bundle, self._clock())

    def give_back(self, decision: Decision) -> None:
        """The work that an admitted call took units for was not done; once. Limits that count calls keep theirs, because
        the call was made; of a window that is over there is nothing to give back.
        """
        now = self._clock()
        for cell, cost in decision.taken:
            if cell.policy.weighted:
                self.flights.settle(cell.give_back(cost, decision.taken_at, now))

    # -- deciding ------------------------------------------------------------------------------------
    async def _check_slowly(self, caller: Caller, operation: Operation, cost: int | None, now: float) -> Decision:
        self._listen()
        known = self._bundles[operation].get(caller.key_id or caller.user_id) if cost is None else None
        if (
            known is None
            or known.caller != caller
            or known.dropped
            or not self._definitions.believed(known.definitions, now)
        ):
            patience = 0.0 if self.flights.away else self._patience
            definitions = await self._definitions.get(caller.organization_id, patience)
            if definitions is None:
                return Decision(False, (), 1, unavailable=True)
            known = self._known_bundle(caller, operation, cost, definitions)
        return await self._decide(known, now)

    def _known_bundle(self, caller: Caller, operation: Operation, cost: int | None, definitions: Definitions) -> Bundle:
        items = []
        for policy in definitions.policies:
            subject = policy.subject(caller, operation)
            if subject is not None and (cost is None or (policy.weighted and policy.unit == "requests")):
                items.append((self._cell(policy, subject), policy.cost_of(operation) if cost is None else cost))
        bundle = Bundle(items, definitions, caller)
        if cost is None:
            if self._bundled >= _BUNDLES:
                self._bundles.clear()
                self._bundled = 0
            self._bundled += 1
            self._bundles[operation][caller.key_id or caller.user_id] = bundle
        return bundle

    def _cell(self, policy: Policy, subject: str) -> Cell:
        key = (policy.organization_id, policy.id, policy.epoch, subject)
        cell = self._cells.get(key)
        if cell is None:
            made = Slots if policy.unit == "concurrent-requests" else Cell
            cell = self._cells[key] = made(key, policy, policy.quota_of(subject))
            cell.used_at, cell.replicas = self._clock(), self.flights.replicas
            self._wheel.at(cell, cell.used_at + FORGET_SECONDS)
        elif cell.policy is not policy:
            before = cell.quota
            cell.policy, cell.quota = policy, policy.quota_of(subject)
            if cell.quota != before:
                self.flights.settle(cell.revoke(self._clock()))  # granted since the change, by the quota before it
        return cell

    async def _decide(self, bundle: Bundle, started: float) -> Decision:
        self._renew()
        now = self._clock()
        for cell, _ in (*bundle.enforced, *bundle.shadows):
            self.flights.settle(cell.roll(now))
        since = -math.inf if self.hearing.fresh(now) else now - HEARING_SECONDS
        if bundle.refusing(now):
            return bundle.deny(now)
        lacking = bundle.lacking(now, since)
        if not lacking:
            decision = bundle.admit(now, "lease")
            self._look_ahead(bundle)
            return decision
        if bundle.caller is not None and not self._definitions.usable(bundle.definitions, now):
            self.fallbacks += 1
            return bundle.fall_back(now)  # nobody knows by which quota to ask
        if self.flights.away:
            for cell in lacking:
                self.flights.ask(cell)
            self.fallbacks += 1
            return bundle.fall_back(now)
        decision = await self.flights.wait(bundle, lacking, started + self._patience)
        self.fallbacks += any(each.source == "fallback" for each in decision.verdicts)
        return decision

    def _look_ahead(self, bundle: Bundle) -> None:
        for cell, _ in (*bundle.enforced, *bundle.shadows):
            if (cell.credit or cell.left <= cell.low) and not cell.asking:
                self.flights.ask(cell)

    # -- what happens besides ------------------------------------------------------------------------
    async def _tick_on(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                self._tick()
            except Exception:
                _log.exception("limits_tick_failed")

    def _tick(self) -> None:
        """Give back what has expired, renew what is in use, forget what is not."""
        now = self._clock()
        for cell in self._wheel.turn(now):
            if cell.asking:
                continue  # looked at again when it has been answered
            self._tend(cell, now)
            if not cell.idle:
                cell.used_at = now
            if now - cell.used_at < FORGET_SECONDS:
                self._watch(cell)
            else:
                cell.dropped = True
                self._cells.pop(cell.key, None)
        self.flights.tick()

    def _watch(self, cell: Cell) -> None:
        """Look at a cell again when its lease ends, or when it can be forgotten."""
        now = self._clock()
        if isinstance(cell, Slots) and (cell.running or cell.expires != -math.inf):
            # Half way to their end, so that a call that fails can be repeated.
            self._wheel.at(cell, max((cell.leased_at + cell.expires) / 2, now + TICK_SECONDS))
        elif cell.contended and now < cell.refused_until:
            self._wheel.at(cell, now + TICK_SECONDS)
        elif cell.expires == -math.inf:
            self._wheel.at(cell, cell.used_at + FORGET_SECONDS)
        else:
            self._wheel.at(cell, cell.renews_at if now < cell.renews_at else cell.expires)

    def _tend(self, cell: Cell, now: float) -> None:
        if isinstance(cell, Slots):
            if cell.ages(now):
                self.flights.ask(cell)
            return
        self.flights.settle(cell.roll(now))
        if cell.contended and cell.missed and now < cell.refused_until:
            self.flights.ask(cell)  # on behalf of those who were refused meanwhile
            return
        renewable = cell.low >= 0 and now >= cell.refused_until and cell.policy.mode != "strict"
        if renewable and cell.spent and now >= cell.renews_at:
            self.flights.renew(cell)  # in use: a new lease before the old one ends, so that nobody waits for it
        elif now >= cell.expires or cell.credit:
            self.flights.settle(cell.settle(now))

    def _heard(self, payload: str) -> None:
        """A notification: ``organization:<id>``, ``recall:<key>``, ``freed:<key>``, or everything."""
        kind, _, value = payload.partition(":")
        try:
            if kind in {"recall", "freed"}:
                organization, policy, epoch, subject = value.split("/", 3)
                cell = self._cells.get((UUID(organization), UUID(policy), int(epoch), subject))
                if cell is not None:
                    self._recall(cell) if kind == "recall" else self._reopen(cell)
            else:
                self._forget(UUID(value) if kind == "organization" else None)
        except ValueError:
            _log.warning("limits_heard_nonsense", payload=payload[:100])
            self._forget(None)

    def _reopen(self, cell: Cell) -> None:
        cell.reopen(self._clock())
        if not cell.asking:
            self._watch(cell)

    def _recall(self, cell: Cell) -> None:
        if cell.asking:
            return
        if isinstance(cell, Slots):
            cell.peak, cell.touched = cell.running, False
            self.flights.ask(cell)
        else:
            self.flights.settle(cell.settle(self._clock()))

    def _forget(self, organization_id: UUID | None) -> None:
        self._definitions.forget(organization_id)
        now = self._clock()
        for key, cell in self._cells.items():
            if organization_id in (None, key[0]):
                self.flights.settle(cell.revoke(now))

    def _listening(self, state: bool) -> None:
        if state:
            self._forget(None)  # what changed meanwhile is unknown
        else:
            self.hearing.lose()
