"""The replay: one statement adds usage up by subject and window, and works out what a policy would have refused."""

from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import Interval, TextClause, bindparam, text

from services.ratelimit.usage.domain import Span
from services.ratelimit.usage.repository import COUNTED, counted, like, subject_sql
from shared.db import Record, Session
from shared.errors import FieldError, ValidationFailed
from shared.limits.policies import Policy

MOST_SUBJECTS = 100

# What was wanted, whether it was admitted then or not, by subject and window; and each subject's quota: that of the
# longest pattern that fits.
_WANTED = """WITH windows AS MATERIALIZED (
  SELECT quarter, w.starts
  FROM generate_series(date_bin('15 minutes', CAST(:first AS timestamptz), '2000-01-01T00:00:00Z'),
    CAST(:end AS timestamptz), interval '15 minutes') AS quarter,
    LATERAL ratelimit.window_of(:period, :zone, quarter) AS w
), wanted AS MATERIALIZED (
  SELECT subject, {starts} AS starts, sum(calls)::bigint AS calls, sum(units)::bigint AS units
  FROM {rows} WHERE subject IS NOT NULL GROUP BY 1, 2
), subjects AS MATERIALIZED (
  SELECT subject, coalesce((
    SELECT o.quota FROM unnest(CAST(:patterns AS text[]), CAST(:lengths AS integer[]), CAST(:quotas AS bigint[]))
      WITH ORDINALITY AS o (pattern, length, quota, nth)
    WHERE subject LIKE o.pattern ORDER BY o.length DESC, o.nth LIMIT 1), CAST(:quota AS bigint)) AS quota
  FROM (SELECT DISTINCT subject FROM wanted) AS each
)"""

# Only windows that overflow are looked at by minute. A window takes what comes until it is full; of the minute in
# which it fills as many calls pass as their average cost lets in: without knowing their order, that is all one can
# say, and exact where all cost the same.
_BY_WINDOW = """, overfull AS MATERIALIZED (
  SELECT subject, quota, starts, calls, units FROM wanted JOIN subjects USING (subject) WHERE units > quota
), demand AS (
  {demand}
), filled AS (
  SELECT *, sum(units) OVER (PARTITION BY subject, starts ORDER BY minute)::bigint AS upto FROM demand
), refusals AS MATERIALIZED (
  SELECT subject, minute, calls, units,
    (calls - div(calls::numeric * greatest(quota - (upto - units), 0), units))::bigint AS refused
  FROM filled WHERE upto > quota AND units > 0
), totals AS (
  SELECT subject, quota, sum(calls)::bigint AS calls, sum(units)::bigint AS cost, max(units) AS peak,
    count(*) FILTER (WHERE units > quota) AS windows_hit
  FROM wanted JOIN subjects USING (subject) GROUP BY subject, quota
)"""

# Windows of a second: each has a sixtieth of the minute's calls, the first ones one more where that leaves a rest.
_BY_SECOND = """, spread AS MATERIALIZED (
  SELECT subject, quota, starts AS minute, calls, units, calls / 60 AS base, calls % 60 AS more,
    CASE WHEN units > 0 THEN div(quota::numeric * calls, units) ELSE calls END AS fits
  FROM wanted JOIN subjects USING (subject)
), refusals AS MATERIALIZED (
  SELECT subject, minute, calls, units,
    ((60 - more) * greatest(base - fits, 0) + more * greatest(base + 1 - fits, 0))::bigint AS refused
  FROM spread WHERE base + sign(more) > fits
), totals AS (
  SELECT subject, quota, sum(calls)::bigint AS calls, sum(units)::bigint AS cost,
    max(ceil((base + sign(more)) * units::numeric / greatest(calls, 1)))::bigint AS peak,
    sum(CASE WHEN base > fits THEN 60 WHEN base + 1 > fits THEN more ELSE 0 END)::bigint AS windows_hit
  FROM spread GROUP BY subject, quota
)"""

_ANSWER = """, refused AS (
  SELECT subject, sum(refused)::bigint AS refused, sum(ceil(refused::numeric * units / calls))::bigint AS refused_cost,
    min(minute) AS first_refused_at, max(minute) AS last_refused_at
  FROM refusals GROUP BY subject
), by_subject AS MATERIALIZED (
  SELECT subject, quota, calls, cost, coalesce(refused, 0) AS refused, coalesce(refused_cost, 0) AS refused_cost,
    first_refused_at, last_refused_at, windows_hit, peak
  FROM totals LEFT JOIN refused USING (subject)
), buckets AS (
  SELECT date_bin(:width, minute, '2000-01-01T00:00:00Z') AS start, calls, 0 AS refused
  FROM {rows} WHERE subject IS NOT NULL
  UNION ALL
  SELECT date_bin(:width, minute, '2000-01-01T00:00:00Z'), 0, refused FROM refusals
)
SELECT 'total' AS kind, NULL AS subject, count(*) AS quota, coalesce(sum(calls), 0)::bigint AS calls,
  coalesce(sum(cost), 0)::bigint AS cost, coalesce(sum(refused), 0)::bigint AS refused,
  coalesce(sum(refused_cost), 0)::bigint AS refused_cost, NULL::timestamptz AS first_refused_at,
  NULL::timestamptz AS last_refused_at, count(*) FILTER (WHERE refused > 0) AS windows_hit, 0::bigint AS peak
FROM by_subject
UNION ALL
(SELECT 'subject', * FROM by_subject ORDER BY refused DESC, cost DESC, subject LIMIT {most})
UNION ALL
(SELECT 'bucket', NULL, 0, sum(calls)::bigint, 0, sum(refused)::bigint, 0, start, NULL, 0, 0
  FROM buckets GROUP BY start HAVING sum(refused) > 0)"""
_ONE_MINUTE = "SELECT subject, quota, starts, starts AS minute, calls, units FROM overfull"
_MINUTES = """SELECT o.subject, o.quota, o.starts, minute, sum(r.calls)::bigint AS calls, sum(r.units)::bigint AS units
  FROM {rows} JOIN overfull o ON o.subject = r.subject AND o.starts = windows.starts GROUP BY 1, 2, 3, 4"""
_ROWS = """(SELECT minute, calls, {units} AS units, {subject} AS subject
    FROM ratelimit.usage_minutes WHERE {counted}) AS r"""
# Every clock in use is a multiple of a quarter of an hour away from UTC, and so are the windows' beginnings.
_IN_WINDOWS = "{rows} JOIN windows ON quarter = date_bin('15 minutes', r.minute, '2000-01-01T00:00:00Z')"
_MEMORY = text("SET LOCAL work_mem = '16MB'")


async def replay(
    session: Session, organization_id: UUID, policy: Policy, asked: Span, width: timedelta
) -> Sequence[Record]:
    """One row of the kind ``total``, one for each ``subject`` (those most refused) and each ``bucket`` with refused calls.

    A total has the number of subjects as its ``quota`` and of those refused as ``windows_hit``; a bucket begins at
    ``first_refused_at``. Raises ``ValidationFailed`` (``span_too_large``) where that would take too long.
    """
    params: dict[str, Any] = {
        "patterns": [like(each.pattern) for each in policy.overrides],
        "lengths": [len(each.pattern) for each in policy.overrides],
        "quotas": [each.quota for each in policy.overrides],
        "quota": policy.quota,
        "width": width,
        "period": policy.window,
        "zone": policy.timezone,
        **counted(policy, organization_id, asked),
    }
    statement = _statement(subject_sql(policy), policy.weighted, policy.window or "")
    try:
        await session.execute(_MEMORY)
        return await session.fetch(statement, **params)
    except asyncpg.QueryCanceledError as error:
        message = "there is more usage in it than can be replayed in time: choose a shorter span, or fewer routes"
        raise ValidationFailed(
            "The simulation took too long.",
            code="span_too_large",
            errors=[FieldError(field="/from", code="span_too_large", message=message)],
        ) from error


@lru_cache(maxsize=256)
def _statement(subject: str, weighted: bool, window: str) -> TextClause:
    rows = _ROWS.format(units="cost + refused_cost" if weighted else "calls", subject=subject, counted=COUNTED)
    if window in ("second", "minute"):
        starts, placed, demand = "r.minute", rows, _ONE_MINUTE
    else:
        starts, placed = "windows.starts", _IN_WINDOWS.format(rows=rows)
        demand = _MINUTES.format(rows=placed)
    sql = (
        _WANTED.format(rows=placed, starts=starts)
        + (_BY_SECOND if window == "second" else _BY_WINDOW.format(demand=demand))
        + _ANSWER.format(rows=rows, most=MOST_SUBJECTS)
    )
    return text(sql).bindparams(bindparam("width", type_=Interval))
