"""Usage counted in memory and written once a second, by the database's minute."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from shared.clock import FixedClock, use_clock
from shared.db import Database
from shared.errors import ServiceUnavailable
from shared.ids import new_id
from shared.limits import usage
from shared.limits.policies import Caller, Operation
from shared.limits.usage import UsageRecorder
from tests.shared.limits.conftest import ADD, LIST, SCHEMA

ROWS = "SELECT * FROM ratelimit.usage_minutes WHERE organization_id = $1 ORDER BY minute, actor_type, actor_id, route"


class Faults:
    """Stands between a recorder and its pool: ``before`` and ``after`` each sending may raise."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None
        self.sent: list[tuple[int, int]] = []

    @property
    def pool(self) -> "Faults":
        return self

    @contextlib.asynccontextmanager
    async def acquire(self, timeout: float) -> AsyncIterator["Faults"]:
        self.before()
        yield self

    async def fetchval(self, sql: str, replica: UUID, number: int, *arrays: Any, timeout: float) -> Any:
        self.sent.append((number, len(arrays[0])))
        told = await self._database.pool.fetchval(sql, replica, number, *arrays)
        self.after()
        return told


def away() -> None:
    raise ServiceUnavailable("away")


@pytest.fixture
def faults(gateway: Database) -> Faults:
    return Faults(gateway)


@pytest.fixture
def recorder(faults: Faults) -> UsageRecorder:
    return UsageRecorder(faults, schema=SCHEMA)  # type: ignore[arg-type]


@pytest_asyncio.fixture
async def rows(admin: Any, organization_id: UUID) -> Callable[[], Any]:
    async def found() -> Any:
        return await admin.fetch(ROWS, organization_id)

    return found


def count(recorder: UsageRecorder, caller: Caller, operation: Operation = LIST, times: int = 1, **fields: Any) -> None:
    for _ in range(times):
        values: dict[str, Any] = {"allowed": True, "cost": 1, "shadow": False} | fields
        recorder.record(caller, "api_key" if caller.key_id else "user", operation, **values)


class TestWriting:
    async def test_adds_up_by_caller_and_operation(self, recorder: UsageRecorder, caller: Caller, rows: Any) -> None:
        session = Caller(caller.organization_id, None, caller.user_id)
        count(recorder, caller, times=3, cost=5)
        count(recorder, caller, times=2, cost=5, allowed=False)
        count(recorder, caller, ADD, shadow=True)
        count(recorder, session)
        await recorder.flush()
        found = [
            (each["actor_type"], each["actor_id"], each["user_id"], each["route"], each["class"], each["calls"],
             each["refused"], each["cost"], each["refused_cost"], each["shadow_refused"])
            for each in await rows()
        ]  # fmt: skip
        key, user = caller.key_id, caller.user_id
        assert found == [
            ("api_key", key, user, "GET /v1/contacts", "read", 5, 2, 15, 10, 0),
            ("api_key", key, user, "POST /v1/contacts", "write", 1, 0, 1, 0, 1),
            ("user", user, user, "GET /v1/contacts", "read", 1, 0, 1, 0, 0),
        ]
        assert abs((await rows())[0]["minute"] - datetime.now(UTC)) < timedelta(minutes=2)

    async def test_a_call_that_was_refused_after_all(self, recorder: UsageRecorder, caller: Caller, rows: Any) -> None:
        costly = LIST._replace(cost=5)
        count(recorder, caller, costly, times=2, cost=5)
        recorder.refuse_after_all(caller, "api_key", costly)
        recorder.refuse_after_all(caller, "api_key", ADD)  # of which nothing is known any more
        await recorder.flush()
        recorder.refuse_after_all(caller, "api_key", costly)
        await recorder.flush()
        (row,) = await rows()
        assert {name: row[name] for name in ("calls", "refused", "cost", "refused_cost")} == {
            "calls": 2, "refused": 1, "cost": 5, "refused_cost": 5,
        }  # fmt: skip

    async def test_adds_to_what_is_written(self, recorder: UsageRecorder, caller: Caller, rows: Any) -> None:
        for _ in range(3):
            count(recorder, caller)
            await recorder.flush()
        assert sum(each["calls"] for each in await rows()) == 3

    async def test_tells_an_operation_from_its_likes(self, recorder: UsageRecorder, caller: Caller, rows: Any) -> None:
        for _ in range(50):
            count(recorder, caller, Operation("GET", "/v1/contacts"))
        count(recorder, caller, Operation("GET", "/v1/deals"))
        await recorder.flush()
        assert [(each["route"], each["calls"]) for each in await rows()] == [
            ("GET /v1/contacts", 50),
            ("GET /v1/deals", 1),
        ]

    async def test_goes_in_batches(
        self, recorder: UsageRecorder, faults: Faults, caller: Caller, rows: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(usage, "ROWS_A_CALL", 4)
        for number in range(10):
            count(recorder, caller, Operation("GET", f"/v1/{number}"))
        await recorder.flush()
        assert faults.sent == [(1, 0), (1, 4), (2, 4), (3, 2)]
        assert sum(each["calls"] for each in await rows()) == 10

    async def test_happens_by_itself_and_at_the_stop(self, gateway: Database, caller: Caller, rows: Any) -> None:
        recorder = UsageRecorder(gateway, schema=SCHEMA, flush_seconds=0.01)
        recorder.start()
        count(recorder, caller)
        async with asyncio.timeout(20):
            while not await rows():  # noqa: ASYNC110 (what is waited for happens in the database)
                await asyncio.sleep(0.01)
        count(recorder, caller, times=4)
        await recorder.stop()
        assert sum(each["calls"] for each in await rows()) == 5

    async def test_happens_early_where_much_is_counted(
        self, gateway: Database, caller: Caller, rows: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(usage, "MOST_COUNTED", 5)
        recorder = UsageRecorder(gateway, schema=SCHEMA, flush_seconds=3600)
        recorder.start()
        for number in range(6):
            count(recorder, caller, Operation("GET", f"/v1/{number}"))
        async with asyncio.timeout(20):
            while not await rows():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await recorder.stop()
        assert len(await rows()) == 6


class TestOutage:
    async def test_what_cannot_be_sent_is_sent_later(
        self, recorder: UsageRecorder, faults: Faults, caller: Caller, rows: Any
    ) -> None:
        faults.before = away
        for _ in range(3):
            count(recorder, caller)
            await recorder.flush()
        faults.before = lambda: None
        await recorder.flush()
        assert sum(each["calls"] for each in await rows()) == 3

    @pytest.mark.parametrize(
        "error", [TimeoutError(), ConnectionResetError(), asyncpg.ConnectionDoesNotExistError("gone")]
    )
    async def test_an_answer_that_is_lost_counts_once(
        self, recorder: UsageRecorder, faults: Faults, caller: Caller, rows: Any, error: Exception
    ) -> None:
        def lose() -> None:
            if faults.sent[-1][1]:
                faults.after = lambda: None
                raise error

        faults.after = lose
        count(recorder, caller, times=3)
        await recorder.flush()
        count(recorder, caller, times=2)
        await recorder.flush()
        assert [number for number, size in faults.sent if size] == [1, 1, 2]
        assert sum(each["calls"] for each in await rows()) == 5

    async def test_nothing_is_dropped_while_it_is_long(
        self, recorder: UsageRecorder, faults: Faults, caller: Caller, rows: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(usage, "MOST_WAITING", 4)
        faults.before = away
        others = [Caller(caller.organization_id, str(new_id())) for _ in range(9)]
        for _ in range(3):
            for each in others:
                count(recorder, each, cost=2)
            await recorder.flush()
        faults.before = lambda: None
        await recorder.flush()
        found = await rows()
        assert (sum(each["calls"] for each in found), sum(each["cost"] for each in found)) == (27, 54)
        merged = [each for each in found if each["actor_type"] == "merged"]
        assert {(each["actor_id"], each["route"], each["class"]) for each in merged} == {("", "*", "merged")}
        assert sum(each["calls"] for each in merged) == 15

    async def test_the_stop_says_what_is_lost(
        self, recorder: UsageRecorder, faults: Faults, caller: Caller, caplog: pytest.LogCaptureFixture
    ) -> None:
        before = usage._LOST._value.get()
        faults.before = away
        recorder.start()
        count(recorder, caller, times=7)
        await recorder.stop()
        assert usage._LOST._value.get() - before == 7
        assert "the usage of 7 calls is lost" in caplog.text


def test_what_waits_is_bounded(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MOST_WAITING", 10)
    waiting = usage.Waiting()
    for minute in range(0, 6000, 60):
        for number in range(5):
            each = usage._Count(Caller(caller.organization_id, f"key-{number}"), "api_key", LIST, calls=1)
            waiting.add(minute, each)
    assert len(waiting.rows) == 20
    assert sum(row.calls for row in waiting.rows.values()) == 500
    taken = waiting.take()
    assert (sum(row.calls for _, row in taken), waiting.rows) == (500, {})


class TestClock:
    """Processes whose clocks are minutes apart count by the same minute: the database's."""

    @pytest.mark.parametrize("off", [-600, 0, 600])
    async def test_the_minute_is_the_databases(
        self, gateway: Database, caller: Caller, admin: Any, rows: Any, off: int
    ) -> None:
        with use_clock(FixedClock(datetime.now(UTC) + timedelta(seconds=off))):
            recorder = UsageRecorder(gateway, schema=SCHEMA)
        before = await admin.fetchval("SELECT date_trunc('minute', clock_timestamp())")
        count(recorder, caller)
        await recorder.flush()
        after = await admin.fetchval("SELECT date_trunc('minute', clock_timestamp())")
        (row,) = await rows()
        assert before <= row["minute"] <= after

    @pytest.mark.parametrize("off", [-600, 600])
    async def test_also_of_what_was_counted_before_the_database_was_reached(
        self, faults: Faults, caller: Caller, admin: Any, rows: Any, off: int
    ) -> None:
        with use_clock(FixedClock(datetime.now(UTC) + timedelta(seconds=off))):
            recorder = UsageRecorder(faults, schema=SCHEMA)  # type: ignore[arg-type]
        faults.before = away
        count(recorder, caller)
        await recorder.flush()
        faults.before = lambda: None
        await recorder.flush()
        (row,) = await rows()
        now = await admin.fetchval("SELECT clock_timestamp()")
        assert abs(row["minute"] - now) < timedelta(minutes=2)  # to the nearest minute

    async def test_counts_belong_to_the_minute_they_were_begun_in(
        self, recorder: UsageRecorder, caller: Caller, rows: Any
    ) -> None:
        await recorder.flush()
        recorder._began -= 60
        count(recorder, caller)
        recorder._turn()
        count(recorder, caller)
        await recorder.flush()
        first, second = await rows()
        assert second["minute"] - first["minute"] == timedelta(minutes=1)

    async def test_the_end_of_a_minute_ends_its_counts(self, gateway: Database, caller: Caller, rows: Any) -> None:
        recorder = UsageRecorder(gateway, schema=SCHEMA, flush_seconds=3600)
        await recorder.flush()
        recorder._clock._offset += 59.95 - recorder._clock.at(time.monotonic()) % 60
        recorder.start()
        count(recorder, caller)
        async with asyncio.timeout(20):
            while not recorder._turned:  # noqa: ASYNC110 (a timer is waited for)
                await asyncio.sleep(0.001)
        assert recorder._clock.at(recorder._began) % 60 < 30
        await recorder.stop()

    def test_a_slow_answer_tells_the_time_too_roughly(self) -> None:
        clock = usage.DatabaseClock()
        told = datetime(2026, 1, 15, 12, tzinfo=UTC)
        clock.learn(told, 10.0, 13.0)
        assert clock.at(11.5) == told.timestamp()
        assert clock.learn(told, 10.0, 13.0) == 0
        clock.learn(told, 20.0, 20.2)
        assert clock.at(20.1) == told.timestamp()
