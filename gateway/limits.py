"""The quota stage: a call is checked against the limits of its organisation, and counted as usage."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol

from gateway.problems import Overloaded
from gateway.stages import Taken
from shared.db.database import AWAY
from shared.errors import QuotaExceeded, ReducedCapacity, ServiceUnavailable, TooManyRequests
from shared.ids import NIL, derived_id
from shared.limits.client import Limits
from shared.limits.headers import limit_headers
from shared.limits.policies import Caller, Operation, Policy
from shared.limits.problems import refusal
from shared.limits.usage import UsageRecorder

if TYPE_CHECKING:
    from gateway.metrics import GatewayMetrics
    from gateway.stages import Call
    from shared.auth import ActorType, Principal
    from shared.db import Database
    from shared.limits.decision import Decision
    from shared.settings import Settings

logger = logging.getLogger(__name__)

SCHEMA = "ratelimit"
OWN = "own"
UNAVAILABLE = "unavailable"
PLAN_SQL = "SELECT count(*) FROM ratelimit.resolve_limits($1, $2)"
WITHOUT_ORGANIZATION = Policy(
    derived_id("platform-limit", "without-organization"), NIL, "without-organization", 120, per=("user",)
)
_NOTHING = Taken()


class Limiter(Protocol):
    """What decides: ``shared.limits.client.Limits``."""

    async def check(self, caller: Caller, operation: Operation, cost: int | None = None) -> Decision: ...

    async def take(self, wanted: Sequence[tuple[Policy, str]]) -> Decision: ...

    def give_back(self, decision: Decision) -> None: ...


class Recorder(Protocol):
    """What counts: ``shared.limits.usage.UsageRecorder``."""

    def record(
        self, caller: Caller, actor_type: ActorType, operation: Operation, *, allowed: bool, cost: int, shadow: bool
    ) -> None: ...

    def refuse_after_all(self, caller: Caller, actor_type: ActorType, operation: Operation) -> None: ...


class LimitGate:
    """Limits the calls of organisations. Callers without one (signing in, for example) are the service's to slow down.

    ``refused`` is told which policy a call was refused by: its name for a plan's, ``own`` for an organisation's, so
    that figures have an end; ``unavailable`` when it could not be decided.
    """

    def __init__(self, limits: Limiter, usage: Recorder, refused: Callable[[str], None]) -> None:
        self._limits = limits
        self._usage = usage
        self._refused = refused

    async def take(self, call: Call) -> Taken:
        """Take what the call costs from every limit it is under, or from none."""
        principal = call.principal
        caller = call.caller
        if caller is None:
            return _NOTHING if principal.actor_type == "anonymous" else await self._of_nobody(principal)
        operation = call.operation
        decision = await self._limits.check(caller, operation)
        verdicts, watched = decision.verdicts, False
        for verdict in verdicts:
            if not verdict.allowed and verdict.policy.shadow:
                watched = True
        self._usage.record(
            caller,
            principal.actor_type,
            operation,
            allowed=decision.allowed,
            cost=operation.cost,
            shadow=watched,
        )
        headers = limit_headers(verdicts)
        if decision.allowed:
            return Taken(headers, partial(self._ended, call, operation, decision))
        self._count_refusal(decision)
        return Taken(headers, None, refusal(decision, operation))

    async def _of_nobody(self, principal: Principal) -> Taken:
        """Somebody who is signed in and belongs to no organisation, so that no plan says what they may."""
        decision = await self._limits.take([(WITHOUT_ORGANIZATION, f"user:{principal.actor_id}")])
        headers = limit_headers(decision.verdicts)
        if decision.allowed:
            return Taken(headers)
        self._count_refusal(decision)
        if decision.unavailable:
            return Taken(headers, None, ReducedCapacity("How often you called cannot be checked at the moment."))
        wait = decision.retry_after
        text = f"You belong to no organisation, and may make {WITHOUT_ORGANIZATION.quota} calls a minute; try again in {wait} s."
        return Taken(headers, None, TooManyRequests(text, retry_after=wait))

    def _ended(self, call: Call, operation: Operation, decision: Decision, status: int) -> None:
        decision.release()
        if status in (QuotaExceeded.status, Overloaded.status):
            # The service had no units for the rest of the work, or nobody had the time: none of it was done.
            self._limits.give_back(decision)
        if status == QuotaExceeded.status and call.caller is not None:
            self._usage.refuse_after_all(call.caller, call.principal.actor_type, operation)

    def _count_refusal(self, decision: Decision) -> None:
        if decision.unavailable:
            self._refused(UNAVAILABLE)
            return
        for verdict in decision.verdicts:
            if not verdict.allowed and not verdict.policy.shadow:
                self._refused(verdict.policy.name if verdict.policy.plan else OWN)


class Metering:
    """A gateway's limits and usage: the gate, and what has to run behind it."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        metrics: GatewayMetrics,
    ) -> None:
        self._database = database
        self._plan = settings.default_plan
        self.limits = Limits(database, schema=SCHEMA, default_plan=settings.default_plan)
        self.usage = UsageRecorder(database, schema=SCHEMA)
        self.gate = LimitGate(self.limits, self.usage, metrics.refused)
        limits, flights = self.limits, self.limits.flights
        metrics.watch("guardian_gateway_limits_held", "Limits this process holds units of", lambda: limits.held)
        metrics.watch("guardian_gateway_limit_calls", "Calls to the database for units", lambda: flights.counters.calls)
        metrics.watch("guardian_gateway_limit_fallbacks", "Calls decided without units", lambda: limits.fallbacks)
        metrics.watch("guardian_gateway_limit_alone", "1 while the database gives no units", lambda: flights.away)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Renew, listen and write until the end of the block; then give back and write what is left."""
        await self.limits.start()
        self.usage.start()
        looking = asyncio.create_task(self._look_at_the_plan(), name="gateway-default-plan")
        try:
            yield
        finally:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking
            await self.usage.stop()
            await self.limits.stop()

    async def _look_at_the_plan(self) -> None:
        """Say so when organisations without a plan of their own would have no limits: the name may be mistyped."""
        try:
            async with self._database.pool.acquire(timeout=2) as connection:
                found = await connection.fetchval(PLAN_SQL, NIL, self._plan, timeout=5)
        except (ServiceUnavailable, *AWAY) as error:
            logger.warning("whether the plan %r exists is not known: %s", self._plan, error)
            return
        if not found:
            logger.error(
                "GUARDIAN_DEFAULT_PLAN is %r, and there is no plan of this name with limits: organisations that were "
                "given no plan are not limited", self._plan,
            )  # fmt: skip
