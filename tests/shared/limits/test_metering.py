"""Units taken where the work is done, with a request and without one."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from shared.auth import Principal
from shared.db import Database
from shared.errors import QuotaExceeded, ReducedCapacity
from shared.ids import NIL
from shared.limits.client import Limits
from shared.limits.decision import Decision
from shared.limits.metering import Meter, caller_of
from shared.limits.policies import Caller, Operation
from shared.limits.usage import UsageRecorder
from shared.testing.plugin import PrincipalFactory
from tests.shared.limits.conftest import SCHEMA, MakePolicy

STEP = Operation("JOB", "/workflows/step", 1, "bulk")


@pytest_asyncio.fixture
async def meter(gateway: Database, limits: Limits) -> AsyncIterator[Meter]:
    made = Meter(limits, UsageRecorder(gateway, schema=SCHEMA))
    yield made
    await made.stop()


async def usage_of(admin: Any, organization_id: UUID) -> tuple[int, int, int]:
    row = await admin.fetchrow(
        "SELECT sum(calls), sum(cost), sum(refused_cost) FROM ratelimit.usage_minutes WHERE organization_id = $1",
        organization_id,
    )
    calls, cost, refused = map(int, row)
    return calls, cost, refused


async def test_a_job_spends_what_its_caller_has(meter: Meter, caller: Caller, policy: MakePolicy, admin: Any) -> None:
    await policy(quota=10)
    decisions = [await meter.spend(caller, STEP, 4) for _ in range(3)]
    assert [each.allowed for each in decisions] == [True, True, False]
    assert 0 < decisions[-1].retry_after <= 3600
    assert (await meter.spend(caller, STEP, 2)).allowed
    await meter.stop()
    assert await usage_of(admin, caller.organization_id) == (0, 10, 4)


async def test_a_request_is_refused_with_the_price_of_the_work(
    meter: Meter, principal: PrincipalFactory, policy: MakePolicy
) -> None:
    await policy(quota=10, name="work")
    charged: list[Decision] = []
    for _ in range(2):
        await meter.charge(principal(), STEP, 4, charged)
    with pytest.raises(QuotaExceeded) as caught:
        await meter.charge(principal(), STEP, 4, charged)
    assert caught.value.extensions["receipt"]["policies"][0]["cost"] == 4
    assert caught.value.headers["RateLimit-Policy"] == '"work";q=10;w=3600'
    assert charged == [], "a request that is refused pays for no part of its work"
    await meter.charge(principal(), STEP, 10, charged)
    assert len(charged) == 1


async def test_who_has_no_organisation_has_no_limits(meter: Meter, principal: PrincipalFactory) -> None:
    await meter.charge(principal(organization_id=NIL), STEP, 1_000_000, [])


async def test_nothing_is_free_of_charge(meter: Meter, principal: PrincipalFactory, policy: MakePolicy) -> None:
    await policy(quota=0)
    await meter.charge(principal(), STEP, 0, [])


class Away:
    """Limits that cannot decide."""

    async def check(self, caller: Caller, operation: Operation, cost: int | None = None) -> Decision:
        return Decision(False, (), 1, unavailable=True)


async def test_503_when_it_cannot_be_told(gateway: Database, principal: PrincipalFactory) -> None:
    meter = Meter(Away(), UsageRecorder(gateway, schema=SCHEMA))  # type: ignore[arg-type]
    with pytest.raises(ReducedCapacity):
        await meter.charge(principal(), STEP, 1, [])
    await meter.stop()


def test_whose_limits_a_principal_is_under() -> None:
    organization = UUID(int=1)
    key = Principal(organization, "api_key", "k", on_behalf_of="u")
    assert caller_of(key) == Caller(organization, "k", "u")
    assert caller_of(Principal(organization, "user", "u")) == Caller(organization, None, "u")
    assert caller_of(Principal(NIL, "anonymous", "anonymous")) is None
