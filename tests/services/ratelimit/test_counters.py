"""``check_rate_limit`` and ``hold_slots`` themselves, as the gateway's role calls them."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from shared.db.database import service_dsn
from shared.ids import new_id
from shared.settings import Settings

CHECK = "SELECT * FROM ratelimit.check_rate_limit($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13) ORDER BY item"
HOLD = "SELECT * FROM ratelimit.hold_slots($1,$2,$3,$4,$5,$6,$7,$8,$9,$10) ORDER BY item"


class Asker:
    """One process that asks."""

    def __init__(self, connection: Any, organization: UUID) -> None:
        self.connection = connection
        self.organization = organization
        self.replica = new_id()

    async def ask(self, *items: dict[str, Any]) -> list[Any]:
        rows = [
            {"policy": NIL_POLICY, "epoch": 1, "subject": "organization", "period": "hour", "zone": "UTC", "quota": 100,
             "need": 1, "want": 1, "settled": 0, "spent": 0, "unused": 0} | item
            for item in items
        ]  # fmt: skip
        names = ("policy", "epoch", "subject", "period", "zone", "quota", "need", "want", "settled", "spent", "unused")
        arrays = [[row[name] for row in rows] for name in names]
        found: list[Any] = await self.connection.fetch(CHECK, self.replica, [self.organization] * len(rows), *arrays)
        return found


NIL_POLICY = UUID(int=7)


@pytest_asyncio.fixture
async def connection(settings: Settings) -> AsyncIterator[Any]:
    made = await asyncpg.connect(service_dsn(settings, "gateway"))
    yield made
    await made.close()


@pytest_asyncio.fixture
async def asker(connection: Any, postgres: str, organization_id: UUID) -> Asker:
    admin = await asyncpg.connect(postgres)
    await admin.execute("TRUNCATE ratelimit.replicas")  # those of other tests would make leases smaller
    await admin.close()
    return Asker(connection, organization_id)


async def test_units_are_debited_before_they_are_spent(asker: Asker, postgres: str) -> None:
    (first,) = await asker.ask({"need": 10, "want": 10})
    assert (first["granted"], first["remaining"]) == (10, 90)
    assert 0 < first["resets_in"] <= 3600
    (second,) = await asker.ask({"need": 10, "want": 10, "settled": first["window_start"], "spent": 4, "unused": 6})
    assert (second["granted"], second["remaining"]) == (10, 86)
    admin = await asyncpg.connect(postgres)
    row = await admin.fetchrow("SELECT * FROM ratelimit.api_rate_limits WHERE organization_id = $1", asker.organization)
    await admin.close()
    assert row is not None
    assert (row["used"], row["admitted"], row["quota"]) == (14, 4, 100)


async def test_leases_shrink_towards_the_limit_and_never_pass_it(asker: Asker) -> None:
    granted, sizes = 0, []
    while True:
        (answer,) = await asker.ask({"want": 1000})
        if answer["granted"] == 0:
            break
        granted += answer["granted"]
        sizes.append(answer["granted"])
    assert granted == 100
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
    assert sizes[0] <= 50


async def test_what_several_wait_for_is_granted_as_far_as_it_goes(asker: Asker) -> None:
    (answer,) = await asker.ask({"need": 250, "want": 300})
    assert answer["granted"] == 100


async def test_an_item_that_only_settles_asks_for_nothing(asker: Asker) -> None:
    (first,) = await asker.ask({"want": 10})
    assert await asker.ask({"need": 0, "want": 0, "settled": first["window_start"], "unused": 10}) == []
    (again,) = await asker.ask({"need": 100, "want": 100})
    assert again["granted"] == 100


async def test_credit_is_debited_later_even_beyond_the_quota(asker: Asker) -> None:
    (first,) = await asker.ask({"need": 95, "want": 95})
    (second,) = await asker.ask({"settled": first["window_start"], "spent": 103, "unused": -8})
    assert (second["granted"], second["remaining"]) == (0, 0)


async def test_a_refusal_says_whether_others_hold_units_and_calls_them_back(asker: Asker, settings: Settings) -> None:
    heard: list[str] = []
    listener = await asyncpg.connect(service_dsn(settings, "gateway"))
    await listener.add_listener("guardian_limits", lambda *args: heard.append(str(args[3])))
    (first,) = await asker.ask({"need": 100, "want": 100})
    (refused,) = await asker.ask({})
    assert (refused["granted"], refused["outstanding"]) == (0, True)
    await asker.ask({})
    await listener.execute("SELECT 1")
    assert heard == [f"recall:{asker.organization}/{NIL_POLICY}/1/organization"]
    await asker.ask({"need": 0, "want": 0, "settled": first["window_start"], "spent": 100})
    (final,) = await asker.ask({})
    assert (final["granted"], final["outstanding"]) == (0, False)
    await listener.close()


async def test_another_quota_counts_at_once(asker: Asker) -> None:
    await asker.ask({"need": 100, "want": 100})
    (raised,) = await asker.ask({"quota": 150, "need": 80, "want": 80})
    assert raised["granted"] == 50
    (lowered,) = await asker.ask({"quota": 20})
    assert (lowered["granted"], lowered["remaining"]) == (0, 0)


async def test_what_was_spent_without_knowing_the_window_counts_in_the_current_one(asker: Asker) -> None:
    await asker.ask({"want": 1})
    (answer,) = await asker.ask({"need": 90, "want": 90, "settled": -1, "spent": 50, "unused": -50})
    assert answer["granted"] == 49


async def test_the_same_row_twice_in_one_call_is_one_row(asker: Asker) -> None:
    (first,) = await asker.ask({"need": 60, "want": 60})
    settling = {"need": 0, "want": 0, "settled": first["window_start"], "spent": 10, "unused": 20}
    (answer,) = await asker.ask(settling, settling, {"need": 100, "want": 100})
    assert (answer["item"], answer["granted"]) == (3, 80)


async def test_an_epoch_begins_anew_and_old_returns_do_not_reach_it(asker: Asker) -> None:
    (old,) = await asker.ask({"need": 100, "want": 100})
    (fresh,) = await asker.ask({"epoch": 2, "need": 100, "want": 100})
    assert fresh["granted"] == 100
    await asker.ask({"need": 0, "want": 0, "settled": old["window_start"], "unused": 100})
    (still,) = await asker.ask({"epoch": 2})
    assert still["granted"] == 0


async def test_many_at_once_in_any_order_never_wait_in_a_circle(settings: Settings, organization_id: UUID) -> None:
    connections = [await asyncpg.connect(service_dsn(settings, "gateway")) for _ in range(6)]
    askers = [Asker(each, organization_id) for each in connections]
    subjects = [f"key:{new_id()}" for _ in range(12)]
    granted: dict[str, int] = {}

    async def work(asker: Asker, number: int) -> None:
        for turn in range(25):
            chosen = subjects[number % 3 :: 2] if turn % 2 else list(reversed(subjects))
            answers = await asker.ask(*({"subject": each, "want": 3} for each in chosen))
            for answer in answers:
                name = chosen[answer["item"] - 1]
                granted[name] = granted.get(name, 0) + answer["granted"]

    await asyncio.gather(*(work(asker, number) for number, asker in enumerate(askers)))
    assert granted == dict.fromkeys(subjects, 100)
    for each in connections:
        await each.close()


async def test_slots_of_the_others_leave_the_rest(settings: Settings, organization_id: UUID) -> None:
    connection = await asyncpg.connect(service_dsn(settings, "gateway"))

    statements = count(1)

    async def hold(replica: UUID, need: int, want: int, seconds: float = 10.0, statement: int | None = None) -> Any:
        whose = [organization_id], [NIL_POLICY], [1], ["organization"]
        number = statement or next(statements)
        return await connection.fetchrow(HOLD, replica, *whose, [10], [need], [want], seconds, number)

    one, other = new_id(), new_id()
    assert (await hold(one, 6, 6))["held"] == 6
    assert (await hold(other, 6, 6))["held"] == 4
    assert (await hold(one, 6, 6))["held"] == 6  # stating it again changes nothing
    assert (await hold(one, 1, 1))["held"] == 1
    assert (await hold(other, 6, 6))["held"] == 6
    assert (await hold(other, 3, 9))["held"] == 3  # spare ones only as far as the others leave them
    await hold(other, 9, 9, 0.02)
    await asyncio.sleep(0.05)
    assert (await hold(one, 10, 10))["held"] == 10  # who does not renew loses them
    await hold(one, 1, 1, statement=1)  # given up long ago, and carried out only now
    assert (await hold(other, 1, 1))["held"] == 0
    await connection.close()


@pytest.mark.parametrize("role", ["crm", "identity", "audit"])
async def test_services_meter_but_read_nothing(settings: Settings, role: str, organization_id: UUID) -> None:
    connection = await asyncpg.connect(service_dsn(settings, role))
    (answer,) = await Asker(connection, organization_id).ask({})
    assert answer["granted"] == 1
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.fetch("SELECT * FROM ratelimit.api_rate_limits")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("SELECT ratelimit.set_plan($1, 'pro')", organization_id)
    await connection.close()


async def test_credit_may_be_the_first_of_a_window(asker: Asker) -> None:
    (other,) = await asker.ask({"subject": "another"})
    credit = {"settled": other["window_start"], "spent": 3, "unused": -3}
    (answer,) = await asker.ask({"need": 1, "want": 1, **credit})
    assert (answer["granted"], answer["remaining"]) == (1, 96)


async def test_who_names_the_present_window_may_be_the_first_in_it(asker: Asker) -> None:
    (other,) = await asker.ask({"subject": "another"})
    (answer,) = await asker.ask({"need": 2, "want": 2, "settled": other["window_start"]})
    assert (answer["granted"], answer["remaining"]) == (2, 98)
