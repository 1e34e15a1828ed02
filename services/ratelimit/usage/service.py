"""Use cases of usage: asked for by interval, and published by minute."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from services.ratelimit.events import UsagePart, UsageRecorded
from services.ratelimit.usage import domain, repository
from services.ratelimit.usage.schemas import UsageQuery
from shared.auth import Principal
from shared.db import Record, Session
from shared.errors import BadRequest
from shared.events import publish
from shared.http.pagination import decode_cursor
from shared.ids import derived_id

GRACE = timedelta(seconds=5)
"""How long after its end a minute is taken for complete; what comes later is published again."""
_LAST_HOUR = timedelta(hours=1)
_TOP_ROUTES = 10
_NUMBERS = ("calls", "refused", "cost", "shadow_refused")
Row = Mapping[str, Any]


def sort(query: UsageQuery) -> str:
    """The order of a list, for its cursors."""
    return f"usage:{query.group_by}:{query.interval}"


async def page(session: Session, principal: Principal, query: UsageQuery) -> list[dict[str, Any]]:
    """One row more than the page holds, by start; raises ``ValidationFailed`` for a span that cannot be asked for."""
    after = _position(query)
    asked = domain.span(query.begin, query.end, await repository.now(session), _LAST_HOUR)
    domain.check_interval(asked, query.interval)
    given = {"key": query.key, "user": query.user, "route": query.route, "class": query.route_class}
    filters = {name: str(value) for name, value in given.items() if value is not None}
    found: list[Record] = []
    start = max(asked.start, after[0]) if after else asked.start
    for piece in domain.pieces(start, asked.end, query.interval):
        found += await repository.page(
            session, principal.organization_id, piece, query.group_by, query.interval, filters, after,
            query.limit + 1 - len(found),
        )  # fmt: skip
        if len(found) > query.limit:
            break
    return [_shown(row, query.group_by) for row in found]


def _shown(row: Record, grouping: str) -> dict[str, Any]:
    value = row["value"]
    return {
        "start": row["start"],
        grouping: value or None,
        **{name: row[name] for name in _NUMBERS},
        "value": value,
    }


def _position(query: UsageQuery) -> tuple[datetime, str] | None:
    if query.cursor is None:
        return None
    start, value = decode_cursor(query.cursor, sort(query), 2)
    try:
        moment = datetime.fromisoformat(start).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        moment = None
    if moment is None or not isinstance(value, str) or "\x00" in value:
        raise BadRequest("The cursor is not one of this list; start again without one.", code="invalid_cursor")
    return moment, value


async def publish_due(session: Session, organization_id: UUID) -> int:
    """Publish closed minutes of an organisation that are not published as they are; how many there were.

    Held first and added up then: whatever is recorded in between makes its minute dirty again.
    """
    actors = await repository.lock_dirty(session, organization_id, GRACE)
    if not actors:
        return 0
    rows: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for row in await repository.totals(session, organization_id, actors):
        rows[row["minute"], row["actor_type"], row["actor_id"]].append(row)
    system = Principal(organization_id, "system", "ratelimit")
    for actor in actors:
        identity = actor["minute"], actor["actor_type"], actor["actor_id"]
        subject = derived_id(organization_id, actor["actor_type"], actor["actor_id"], actor["minute"].isoformat())
        publish(
            session, _event(actor, rows[identity]), subject=subject, sequence=actor["sequence"] + 1, principal=system
        )
    await repository.published(session, organization_id, actors)
    return len(actors)


def _event(actor: Record, rows: Sequence[Record]) -> UsageRecorded:
    routes = sorted(_parts(rows, "route"), key=lambda part: (-part.calls, part.name))
    return UsageRecorded(
        actor_type=actor["actor_type"],
        actor_id=actor["actor_id"] or None,
        user_id=next((row["user_id"] for row in rows if row["user_id"]), None),
        minute=actor["minute"].astimezone(UTC),
        **_sums(rows),
        classes=sorted(_parts(rows, "class"), key=lambda part: part.name),
        routes=routes[:_TOP_ROUTES],
    )


def _parts(rows: Iterable[Record], column: str) -> list[UsagePart]:
    grouped: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        grouped[row[column]].append(row)
    return [UsagePart(name=name, **_sums(each)) for name, each in grouped.items()]


def _sums(rows: Sequence[Record]) -> dict[str, int]:
    return {name: sum(row[name] for row in rows) for name in _NUMBERS}
