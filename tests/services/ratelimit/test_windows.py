"""``ratelimit.window_of`` beside zoneinfo: windows tile, and days and months begin at midnight of their zone."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, available_timezones

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PERIODS = ("second", "minute", "hour", "day", "month")
FIRST, LAST = datetime(1990, 1, 1, tzinfo=UTC), datetime(2060, 1, 1, tzinfo=UTC)
STRANGE = (
    "America/Sao_Paulo", "America/Havana", "Asia/Beirut", "Africa/Cairo", "Pacific/Apia", "Pacific/Kwajalein",
    "America/Asuncion", "Asia/Amman", "Asia/Gaza", "Asia/Tehran", "Atlantic/Azores", "America/Scoresbysund",
    "Australia/Lord_Howe", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Antarctica/Troll", "UTC",
)  # fmt: skip
"""Zones that skip midnight, have it twice, skip a whole day, or change by half an hour."""
_WINDOWS = """
SELECT i.period, i.zone, i.moment, w.starts, w.ends, b.starts AS next_starts
FROM unnest($1::text[], $2::text[], $3::timestamptz[]) WITH ORDINALITY AS i (period, zone, moment, nth),
  LATERAL ratelimit.window_of(i.period, i.zone, i.moment) w, LATERAL ratelimit.window_of(i.period, i.zone, w.ends) b
ORDER BY i.nth
"""
_OFFSETS = """
SELECT extract(epoch FROM (m AT TIME ZONE z) - (m AT TIME ZONE 'UTC'))::int FROM unnest($1::text[], $2::timestamptz[])
  WITH ORDINALITY AS i (z, m, nth) ORDER BY nth
"""
_DAY = timedelta(days=1)


class Case(NamedTuple):
    period: str
    zone: str
    moment: datetime


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def connection(postgres: str) -> AsyncIterator[Any]:
    made = await asyncpg.connect(postgres)
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def zones(connection: Any) -> list[str]:
    """Those that both know."""
    known = {row["name"] for row in await connection.fetch("SELECT name FROM pg_timezone_names")}
    return sorted(known & available_timezones())


async def judge(connection: Any, cases: Sequence[Case]) -> int:
    """Assert about each case, if both agree about the zone there; how many there were."""
    found = await connection.fetch(_WINDOWS, *map(list, zip(*cases, strict=True)))
    asked = [(row["zone"], moment) for row in found for moment in around(row)]
    told = iter([row[0] for row in await connection.fetch(_OFFSETS, *map(list, zip(*asked, strict=True)))])
    judged = 0
    for row in found:
        offsets = [next(told) == offset(row["zone"], moment) for moment in around(row)]
        assert row["starts"] <= row["moment"] < row["ends"], row
        assert row["next_starts"] == row["ends"], row
        if all(offsets):
            judged += 1
            judge_one(row)
    return judged


def around(row: Any) -> list[datetime]:
    """Moments near the window's edges; where the two disagree, their data is of different versions."""
    hours = [timedelta(hours=number) for number in (-25, -3, -1, 0, 1, 3, 25)]
    return [edge + each for edge in (row["starts"], row["ends"]) for each in hours]


def offset(zone: str, moment: datetime) -> int:
    """Seconds east of Greenwich."""
    found = moment.astimezone(ZoneInfo(zone)).utcoffset()
    assert found is not None
    return int(found.total_seconds())


def judge_one(row: Any) -> None:
    zone, starts, ends = ZoneInfo(row["zone"]), row["starts"], row["ends"]
    if row["period"] in {"second", "minute", "hour"}:
        seconds = {"second": 1, "minute": 60, "hour": 3600}[row["period"]]
        assert ends - starts == timedelta(seconds=seconds)
        assert starts.timestamp() % seconds == 0
        return
    for edge in (starts, ends):
        assert begins_a_day(edge, zone), row
        if row["period"] == "month":
            assert begins_a_month(edge, zone), row
    if row["period"] == "day":
        assert timedelta(hours=22) <= ends - starts <= timedelta(hours=26), row
        assert inner_midnights(starts, ends, zone) == 0, row
    else:
        assert timedelta(days=26) <= ends - starts <= timedelta(days=32), row


def begins_a_day(moment: datetime, zone: ZoneInfo) -> bool:
    """Whether it is midnight there, or the first moment after a gap that midnight fell into."""
    local = moment.astimezone(zone)
    before = (moment - timedelta(microseconds=1)).astimezone(zone)
    return local.time() == time(0) or (before.date() < local.date() and local.utcoffset() != before.utcoffset())


def begins_a_month(moment: datetime, zone: ZoneInfo) -> bool:
    """Whether the day that begins is the first one its month has there."""
    local = moment.astimezone(zone)
    before = (moment - timedelta(microseconds=1)).astimezone(zone)
    # Where midnight comes twice the second one counts, so that the day before may have been of this date already.
    return local.day == 1 or (before.month != local.month)


def inner_midnights(starts: datetime, ends: datetime, zone: ZoneInfo) -> int:
    """Dates that begin and end within a day's window: none may."""
    first, last = starts.astimezone(zone).date(), (ends - timedelta(microseconds=1)).astimezone(zone).date()
    return max((last - first).days - 1, 0)


def moments() -> st.SearchStrategy[datetime]:
    naive = st.datetimes(FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None))
    return naive.map(lambda each: each.replace(tzinfo=UTC))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(st.lists(st.tuples(st.sampled_from(PERIODS), st.integers(0, 10_000), moments()), min_size=40, max_size=60))
async def test_of_any_moment_in_any_zone(
    connection: Any, zones: list[str], drawn: list[tuple[str, int, datetime]]
) -> None:
    await judge(connection, [Case(period, zones[at % len(zones)], moment) for period, at, moment in drawn])


async def test_around_every_clock_change_of_strange_zones(connection: Any, zones: list[str]) -> None:
    cases = []
    for name in STRANGE:
        if name in zones:
            for change in changes(ZoneInfo(name)):
                for hours in (-26, -24, -2, -1, -0.25, 0, 0.25, 1, 2, 24, 26):
                    cases += [Case(period, name, change + timedelta(hours=hours)) for period in ("day", "month")]
    judged = 0
    for start in range(0, len(cases), 2_000):
        judged += await judge(connection, cases[start : start + 2_000])
    assert judged > 0.9 * len(cases)


def changes(zone: ZoneInfo) -> list[datetime]:
    """When its offset changes, to the minute."""
    found, moment = [], FIRST
    while moment < LAST:
        after = moment + 7 * _DAY
        if moment.astimezone(zone).utcoffset() != after.astimezone(zone).utcoffset():
            low, high = moment, after
            while high - low > timedelta(minutes=1):
                middle = low + (high - low) / 2
                same = middle.astimezone(zone).utcoffset() == low.astimezone(zone).utcoffset()
                low, high = (middle, high) if same else (low, middle)
            found.append(high.replace(second=0, microsecond=0))
        moment = after
    return found


@pytest.mark.parametrize(
    ("zone", "moment", "starts", "ends"),
    [
        ("Europe/Berlin", "2024-02-29T12:00Z", "2024-02-28T23:00Z", "2024-02-29T23:00Z"),
        ("Europe/Berlin", "2026-03-29T12:00Z", "2026-03-28T23:00Z", "2026-03-29T22:00Z"),  # 23 hours
        ("Europe/Berlin", "2026-10-25T12:00Z", "2026-10-24T22:00Z", "2026-10-25T23:00Z"),  # 25 hours
        ("America/Sao_Paulo", "2018-11-04T12:00Z", "2018-11-04T03:00Z", "2018-11-05T02:00Z"),  # begins at one
        ("America/Havana", "2024-11-03T04:30Z", "2024-11-02T04:00Z", "2024-11-03T05:00Z"),  # midnight comes twice
        ("Pacific/Apia", "2011-12-30T09:59Z", "2011-12-29T10:00Z", "2011-12-30T10:00Z"),
        ("Pacific/Apia", "2011-12-30T10:00Z", "2011-12-30T10:00Z", "2011-12-31T10:00Z"),  # the 30th is missing
    ],
)  # fmt: skip
async def test_days_that_people_asked_about(connection: Any, zone: str, moment: str, starts: str, ends: str) -> None:
    row = await connection.fetchrow(
        "SELECT * FROM ratelimit.window_of('day', $1, $2)", zone, datetime.fromisoformat(moment)
    )
    assert (row["starts"], row["ends"]) == (datetime.fromisoformat(starts), datetime.fromisoformat(ends))


async def test_a_year_of_days_and_months_without_a_gap(connection: Any, zones: list[str]) -> None:
    for zone in STRANGE:
        if zone in zones:
            for period, least in (("day", 364), ("month", 12)):
                count = await connection.fetchval(_CHAIN, period, zone, datetime(2011, 1, 15, tzinfo=UTC))
                assert count >= least, (zone, period)


_CHAIN = """
WITH RECURSIVE chain AS (
  SELECT w.*, 1 AS nth FROM ratelimit.window_of($1, $2, $3::timestamptz) w
  UNION ALL
  SELECT n.starts, n.ends, chain.nth + 1 FROM chain, LATERAL ratelimit.window_of($1, $2, chain.ends) n
  WHERE chain.ends < $3::timestamptz + interval '1 year' AND n.starts = chain.ends AND n.ends > n.starts
)
SELECT max(nth) FROM chain
"""
