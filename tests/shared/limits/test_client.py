"""The lease client against the real functions."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from shared.db import Database
from shared.ids import NIL, new_id
from shared.limits.client import Limits
from shared.limits.decision import Decision
from shared.limits.policies import Caller, Operation, Policy
from tests.shared.limits.asking import admitted, ask
from tests.shared.limits.conftest import ADD, LIST, SCHEMA, MakeLimits, MakePolicy


async def counters(admin: Any, organization_id: UUID) -> Any:
    return await admin.fetch(
        "SELECT * FROM ratelimit.api_rate_limits WHERE organization_id = $1 ORDER BY subject", organization_id
    )


async def test_without_a_policy_everything_passes(limits: Limits, caller: Caller) -> None:
    decision = await limits.check(caller, LIST)
    assert (decision.allowed, decision.verdicts) == (True, ())


async def test_exactly_the_quota_is_admitted(limits: Limits, caller: Caller, policy: MakePolicy) -> None:
    await policy(quota=25)
    decisions = await ask(limits, caller, 40)
    assert [each.allowed for each in decisions] == [True] * 25 + [False] * 15
    refused = decisions[-1]
    assert 0 < refused.retry_after <= 3600
    assert not refused.unavailable
    (verdict,) = refused.verdicts
    assert (verdict.quota, verdict.remaining, verdict.allowed, verdict.subject) == (25, 0, False, "organization")


async def test_by_several_processes_together_too(new_limits: MakeLimits, caller: Caller, policy: MakePolicy) -> None:
    await policy(quota=200)
    processes = [await new_limits() for _ in range(4)]
    found = await asyncio.gather(*(ask(each, caller, 100) for each in processes for _ in range(2)))
    assert sum(map(admitted, found)) == 200


async def test_most_calls_ask_nobody(limits: Limits, caller: Caller, policy: MakePolicy) -> None:
    await policy(quota=1_000_000)
    await ask(limits, caller, 200)
    before = limits.flights.counters.calls
    started = time.monotonic()
    decisions = await ask(limits, caller, 5_000)
    seconds = time.monotonic() - started
    assert admitted(decisions) == 5_000
    assert sum(each.verdicts[0].source == "lease" for each in decisions) > 4_900
    assert limits.flights.counters.calls - before < 250 + 40 * seconds


async def test_units_not_used_come_back(new_limits: MakeLimits, caller: Caller, policy: MakePolicy) -> None:
    await policy(quota=30)
    one, other = await new_limits(), await new_limits()
    assert admitted(await ask(one, caller, 3)) == 3
    found = 0
    deadline = time.monotonic() + 5
    while found < 27 and time.monotonic() < deadline:
        found += admitted(await ask(other, caller, 5))
        await asyncio.sleep(0.02)
    assert found == 27
    assert admitted(await ask(other, caller, 3)) == 0


async def test_stopping_gives_everything_back(
    new_limits: MakeLimits, caller: Caller, policy: MakePolicy, admin: Any
) -> None:
    await policy(quota=100)
    limits = await new_limits()
    await ask(limits, caller, 7)
    await limits.stop()
    (row,) = await counters(admin, caller.organization_id)
    assert (row["used"], row["admitted"]) == (7, 7)


async def test_denied_calls_consume_nothing_anywhere(
    new_limits: MakeLimits, caller: Caller, policy: MakePolicy, admin: Any
) -> None:
    limits = await new_limits()
    await policy(quota=5, name="small", routes=["POST *"])
    await policy(quota=50, name="wide")
    assert admitted(await ask(limits, caller, 20, ADD)) == 5
    assert admitted(await ask(limits, caller, 60, LIST)) == 45
    await limits.stop()
    rows = await counters(admin, caller.organization_id)
    assert sorted((row["used"], row["admitted"]) for row in rows) == [(5, 5), (50, 50)]


async def test_a_call_takes_what_it_costs(limits: Limits, caller: Caller, policy: MakePolicy) -> None:
    await policy(quota=10)
    dear = Operation("GET", "/v1/audit/events", 4, "search")
    decisions = await ask(limits, caller, 4, dear)
    assert [each.allowed for each in decisions] == [True, True, False, False]
    assert admitted(await ask(limits, caller, 5)) == 2  # what is too little for the dear call serves cheap ones


@pytest.mark.parametrize("mode", ["exact", "strict"])
async def test_the_same_answers_cold_and_warm(
    new_limits: MakeLimits, caller: Caller, policy: MakePolicy, mode: str
) -> None:
    await policy(quota=6, mode=mode)
    table = []
    for _ in range(9):
        cold = await new_limits()  # every call the first of its process
        table.append((await cold.check(caller, LIST)).allowed)
        await cold.stop()
    assert table == [True] * 6 + [False] * 3


async def test_strict_asks_every_time(limits: Limits, caller: Caller, policy: MakePolicy) -> None:
    await policy(quota=4, mode="strict")
    decisions = await ask(limits, caller, 8)
    assert [each.allowed for each in decisions] == [True] * 4 + [False] * 4
    assert {each.verdicts[0].source for each in decisions} == {"database"}


async def test_fast_never_waits_and_passes_its_quota_by_a_tenth_at_most(
    new_limits: MakeLimits, caller: Caller, policy: MakePolicy
) -> None:
    await policy(quota=200, mode="fast")
    processes = [await new_limits() for _ in range(3)]
    for each in processes:
        await each.check(caller, LIST)
    found = await asyncio.gather(*(ask(each, caller, 150) for each in processes for _ in range(2)))
    assert 180 < sum(map(admitted, found)) <= 220


async def test_a_raised_limit_works_within_a_second(
    limits: Limits, caller: Caller, policy: MakePolicy, admin: Any
) -> None:
    made = await policy(quota=5)
    assert admitted(await ask(limits, caller, 8)) == 5
    await admin.execute("UPDATE ratelimit.policies SET quota = 9, version = 2 WHERE id = $1", made)
    changed, found = time.monotonic(), 0
    while found < 4:
        found += admitted(await ask(limits, caller, 1))
        assert time.monotonic() - changed < 1
    assert admitted(await ask(limits, caller, 3)) == 0


async def test_a_lowered_limit_works_within_a_second(
    limits: Limits, caller: Caller, policy: MakePolicy, admin: Any
) -> None:
    made = await policy(quota=1_000)
    await ask(limits, caller, 50)
    await admin.execute("UPDATE ratelimit.policies SET quota = 60, version = 2 WHERE id = $1", made)
    changed, found = time.monotonic(), 0
    while time.monotonic() - changed < 1:
        found += admitted(await ask(limits, caller, 1))
        await asyncio.sleep(0.02)
    assert found == 10 or found < 50
    assert admitted(await ask(limits, caller, 20)) == 0


async def test_a_new_policy_and_a_removed_one(limits: Limits, caller: Caller, policy: MakePolicy, admin: Any) -> None:
    assert (await limits.check(caller, LIST)).verdicts == ()
    made = await policy(quota=0)
    await until_allowed(limits, caller, False)
    await admin.execute("DELETE FROM ratelimit.policies WHERE id = $1", made)
    await until_allowed(limits, caller, True)


async def until_allowed(limits: Limits, caller: Caller, wanted: bool) -> None:
    deadline = time.monotonic() + 1
    while (await limits.check(caller, LIST)).allowed is not wanted:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_an_override_is_for_the_subjects_it_matches(
    limits: Limits, caller: Caller, policy: MakePolicy, admin: Any
) -> None:
    made = await policy(quota=3, per=["key"])
    await admin.execute(
        "INSERT INTO ratelimit.overrides (organization_id, id, policy_id, pattern, quota, expires_at, version, "
        "created_at, updated_at) VALUES ($1, $2, $3, $4, 6, now() + interval '1 second', 1, now(), now())",
        caller.organization_id, new_id(), made, f"key:{(caller.key_id or '')[:9]}*",
    )  # fmt: skip
    other = caller._replace(key_id="another")
    assert admitted(await ask(limits, caller, 8)) == 6
    assert admitted(await ask(limits, other, 8)) == 3
    await asyncio.sleep(1.1)
    third = caller._replace(key_id=(caller.key_id or "")[:9] + "-third")
    assert admitted(await ask(limits, third, 8)) == 3  # it has expired


async def test_a_shadow_counts_and_lets_pass(limits: Limits, caller: Caller, policy: MakePolicy) -> None:
    await policy(quota=3, shadow=True)
    decisions = []
    for _ in range(12):
        decisions.append(await limits.check(caller, LIST))
        await asyncio.sleep(0.01)
    assert admitted(decisions) == 12
    assert not decisions[-1].verdicts[0].allowed


async def test_calls_at_the_same_time(new_limits: MakeLimits, caller: Caller, policy: MakePolicy) -> None:
    await policy(quota=5, unit="concurrent-requests", window=None)
    one, other = await new_limits(), await new_limits()
    running = [each for each in await ask(one, caller, 4) if each.allowed]
    assert len(running) == 4
    more = [each for each in await ask(other, caller, 3) if each.allowed]
    assert len(more) == 1
    assert (await other.check(caller, LIST)).retry_after == 1
    for each in running:
        each.release()
        each.release()  # a second time changes nothing
    deadline = time.monotonic() + 3
    while len(more) < 5:
        more += [each for each in await ask(other, caller, 1) if each.allowed]
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert not (await other.check(caller, LIST)).allowed


async def test_policies_of_the_platform_itself(limits: Limits) -> None:
    policy = Policy(new_id(), NIL, "sign-in", 3, window="minute", mode="strict")
    wanted = [(policy, "address:192.0.2.1")]
    decisions = [await limits.take(wanted) for _ in range(5)]
    assert admitted(decisions) == 3
    limits.give_back(decisions[0])
    assert admitted([await limits.take(wanted) for _ in range(5)]) == 1


async def test_many_wait_for_one_question(limits: Limits, caller: Caller, policy: MakePolicy) -> None:
    await policy(quota=500)
    await limits.check(caller._replace(organization_id=new_id()), LIST)
    before = limits.flights.counters.calls
    found = await asyncio.gather(*(limits.check(caller, LIST) for _ in range(300)))
    assert admitted(found) == 300
    assert limits.flights.counters.calls - before <= 5


async def test_who_leaves_while_waiting_takes_nothing(
    new_limits: MakeLimits, caller: Caller, policy: MakePolicy, admin: Any
) -> None:
    limits = await new_limits()
    await policy(quota=50)
    tasks = [asyncio.create_task(limits.check(caller, LIST)) for _ in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(each, Decision) for each in found) == 10
    await limits.stop()
    (row,) = await counters(admin, caller.organization_id)
    assert row["admitted"] == 10


class Unplugged(Database):
    """A database that cannot be reached while ``away``."""

    away = False

    async def connect(self) -> Any:
        if self.away:
            raise ConnectionRefusedError("unplugged")
        return await super().connect()


@pytest.mark.parametrize(("on_failure", "passes", "unavailable"), [("open", 20, False), ("closed", 0, True)])
async def test_without_the_database_the_policy_says_what_happens(
    unplugged: Limits, caller: Caller, policy: MakePolicy, on_failure: str, passes: int, unavailable: bool
) -> None:
    await policy(quota=10, on_failure=on_failure, routes=["GET /v1/contacts"])
    await policy(quota=1_000, routes=["GET /v1/nothing"])
    await unplugged.check(caller, Operation("GET", "/v1/nothing"))
    pull(unplugged)
    started = time.monotonic()
    decisions = await ask(unplugged, caller, 20)
    assert time.monotonic() - started < 1
    assert admitted(decisions) == passes
    assert decisions[-1].unavailable is unavailable
    assert {each.source for decision in decisions for each in decision.verdicts} == {"fallback"}
    plug_in(unplugged)
    await asyncio.sleep(1.3)
    recovered = await unplugged.check(caller, LIST)
    assert recovered.verdicts[0].source != "fallback"


async def test_without_the_database_a_share_of_what_was_left(
    unplugged: Limits, caller: Caller, policy: MakePolicy
) -> None:
    await policy(quota=40, on_failure="share")
    assert admitted(await ask(unplugged, caller, 10)) == 10
    pull(unplugged)
    assert 0 < admitted(await ask(unplugged, caller, 100)) <= 30


@pytest_asyncio.fixture
async def unplugged(gateway: Database) -> AsyncIterator[Limits]:
    """Limits on a database of their own, whose plug ``pull`` pulls."""
    database = Unplugged(gateway.settings, gateway.service)
    await database.open()
    limits = Limits(database, schema=SCHEMA, default_plan="none", patience=10)  # what fails, fails at once
    await limits.start()
    yield limits
    await limits.stop()
    await database.close()


def database_of(limits: Limits) -> Unplugged:
    found: Unplugged = limits.flights.counters._database  # type: ignore[assignment]
    return found


def pull(limits: Limits) -> None:
    database_of(limits).away = True
    limits.flights.counters.close()


def plug_in(limits: Limits) -> None:
    database_of(limits).away = False
