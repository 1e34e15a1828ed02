"""Units for work that a call, or something without a call, turns out to be: taken from the limits of its organisation.

What a call costs at least stands in its contract and is taken before it is forwarded. A ``Meter`` takes the rest,
where the work is done.
"""

from __future__ import annotations

from shared.auth import ActorType, Principal
from shared.ids import NIL
from shared.limits.client import Limits
from shared.limits.decision import Decision
from shared.limits.headers import limit_fields
from shared.limits.policies import Caller, Operation
from shared.limits.problems import refusal
from shared.limits.usage import UsageRecorder


def caller_of(principal: Principal) -> Caller | None:
    """Whose limits a principal's work is under; None for one without an organisation, who has none."""
    if principal.organization_id == NIL:
        return None
    if principal.actor_type == "api_key":
        return Caller(principal.organization_id, principal.actor_id, principal.on_behalf_of)
    return Caller(principal.organization_id, None, principal.actor_id)


class Meter:
    """Takes units while work goes on, and counts them as usage. Only weighted limits of requests give any; the others
    count calls.
    """

    def __init__(self, limits: Limits, usage: UsageRecorder) -> None:
        self._limits = limits
        self._usage = usage
        self._counting = False

    async def stop(self) -> None:
        """Write the usage that is left."""
        counting, self._counting = self._counting, False
        if counting:
            await self._usage.stop()

    async def spend(self, caller: Caller, operation: Operation, cost: int) -> Decision:
        """Take ``cost`` units from every limit of the caller or from none; for jobs, which wait when refused."""
        decision = await self._limits.check(caller, operation, cost)
        if not self._counting:
            self._counting = True
            self._usage.start()
        self._usage.record(
            caller,
            _actor_type(caller),
            operation,
            allowed=decision.allowed,
            cost=cost,
            shadow=any(each.policy.shadow and not each.allowed for each in decision.verdicts),
            calls=0,
        )
        return decision

    async def charge(self, principal: Principal, operation: Operation, cost: int, before: list[Decision]) -> None:
        """The same for a principal's request; raises ``QuotaExceeded`` or ``ReducedCapacity`` when refused.

        ``before`` is what the request was charged already, and gets back when it is refused; this is added to it.
        """
        caller = caller_of(principal)
        if caller is None or cost <= 0:
            return
        decision = await self.spend(caller, operation, cost)
        if not decision.allowed:
            for each in before:
                self._limits.give_back(each)
            before.clear()
            problem = refusal(decision, operation._replace(cost=cost), rest=True)
            problem.headers.update(limit_fields(decision.verdicts))
            raise problem
        before.append(decision)


def _actor_type(caller: Caller) -> ActorType:
    if caller.key_id is not None:
        return "api_key"
    return "user" if caller.user_id is not None else "system"
