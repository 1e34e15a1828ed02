"""Units that come back, and who hears of them."""

import asyncio
import time
from typing import Any

from shared.db import Database
from shared.ids import NIL, new_id
from shared.limits.cells import NEVER
from shared.limits.client import Limits
from shared.limits.policies import Caller, Operation, Policy
from tests.shared.limits.asking import admitted, ask
from tests.shared.limits.conftest import LIST, SCHEMA, MakeLimits, MakePolicy


async def test_what_is_given_back_of_a_window_that_is_over_serves_nobody(gateway: Database, admin: Any) -> None:
    now = [100.0]
    limits = Limits(gateway, schema=SCHEMA, default_plan="none", patience=10, clock=lambda: now[0])
    policy = Policy(new_id(), NIL, "sign-in", 3, window="hour")
    wanted = [(policy, "address:192.0.2.1")]
    before = await limits.take(wanted)
    now[0] += before.verdicts[0].resets_in + 0.1
    assert admitted([await limits.take(wanted) for _ in range(2)]) == 2
    (cell,) = limits._cells.values()
    held = cell.left, cell.spent
    limits.give_back(before)
    assert (cell.left, cell.spent) == held
    await limits.stop()
    assert await admin.fetchval("SELECT admitted FROM ratelimit.api_rate_limits WHERE policy_id = $1", policy.id) == 3


async def test_units_that_another_process_holds_are_called_back(
    new_limits: MakeLimits, caller: Caller, policy: MakePolicy
) -> None:
    await policy(quota=2_000, window="day")
    holder, asker = await new_limits(), await new_limits()
    assert admitted(await ask(holder, caller, 1)) == 1  # and it holds some more for the next calls
    whole = Operation("POST", "/v1/contacts/bulk", 1_999, "bulk")
    first = await asker.check(caller, whole)
    assert (first.allowed, first.retry_after) == (False, 1)
    await asyncio.sleep(1)
    assert (await asker.check(caller, whole)).allowed
    assert admitted(await ask(holder, caller, 3)) == 0


async def test_a_dear_call_that_was_refused_does_not_shut_out_cheap_ones(
    limits: Limits, caller: Caller, policy: MakePolicy
) -> None:
    await policy(quota=30, window="month")
    assert admitted(await ask(limits, caller, 15)) == 15
    assert not (await limits.check(caller, Operation("POST", "/v1/limits/simulate", 20, "search"))).allowed
    (cell,) = limits._cells.values()
    assert cell.left == 15 or cell.expires == NEVER  # on a slow machine its lease may have ended by itself
    limits.flights.settle(cell.settle(limits._clock()))  # as when its lease ends
    assert admitted(await ask(limits, caller, 20)) == 15


async def test_a_refund_reaches_who_was_refused_elsewhere(
    new_limits: MakeLimits, caller: Caller, policy: MakePolicy
) -> None:
    await policy(quota=3, window="month")
    one, other = await new_limits(), await new_limits()
    decisions = await ask(one, caller, 3)
    assert admitted(decisions) == 3
    deadline = time.monotonic() + 5
    while (refused := await other.check(caller, LIST)).retry_after <= 1:  # until it is known that all were spent
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert not refused.allowed
    one.give_back(decisions[0])
    while not (await other.check(caller, LIST)).allowed:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert admitted(await ask(other, caller, 2)) == 0


async def test_what_can_never_pass_takes_nothing_and_asks_nobody(
    limits: Limits, caller: Caller, policy: MakePolicy
) -> None:
    await policy(quota=5)
    await limits.check(caller._replace(organization_id=new_id()), LIST)
    before = limits.flights.counters.calls
    decisions = await ask(limits, caller, 3, Operation("POST", "/v1/contacts/bulk", 6, "bulk"))
    assert [(each.allowed, each.verdicts[0].remaining) for each in decisions] == [(False, 5)] * 3
    assert decisions[0].retry_after > 60
    assert limits.flights.counters.calls == before
    assert admitted(await ask(limits, caller, 9)) == 5
