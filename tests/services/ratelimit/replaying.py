"""A second opinion on the simulation: every call by itself, in order, with windows from Python's own time zones.

It shares nothing with the service: patterns are matched by ``fnmatch``, windows found by ``zoneinfo``.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from fnmatch import fnmatchcase
from typing import Any
from zoneinfo import ZoneInfo

from tests.services.ratelimit.recording import Row


@dataclass
class Outcome:
    """What became of a subject's calls."""

    calls: int = 0
    cost: int = 0
    refused: int = 0
    refused_cost: int = 0
    refused_at: list[datetime] = field(default_factory=list)
    wanted: Counter[Any] = field(default_factory=Counter)
    admitted: Counter[Any] = field(default_factory=Counter)
    hit: set[Any] = field(default_factory=set)


def window_of(window: str, zone: str, moment: datetime) -> Any:
    """What tells one window from another."""
    if window in ("second", "minute", "hour"):
        names = ("year", "month", "day", "hour", "minute", "second")
        return tuple(getattr(moment, name) for name in names[: names.index(window) + 1])
    local = moment.astimezone(ZoneInfo(zone))
    day = local.date()
    # Where midnight comes twice the day begins with the second one; where it is skipped, after the gap.
    midnight = datetime.combine(day, time(), ZoneInfo(zone)).replace(fold=1)
    if midnight.astimezone(UTC) > moment and datetime.combine(day, time(), UTC).date() == day:
        gap = midnight.astimezone(UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) != midnight.replace(tzinfo=None)
        day = day if gap else day - timedelta(days=1)
    return (day.year, day.month) if window == "month" else day


def _is_for(match: dict[str, list[str]], row: Row) -> bool:
    key = row.actor_id if row.actor_type == "api_key" else None
    return (
        (not match.get("routes") or any(fnmatchcase(row.route, each) for each in match["routes"]))
        and (not match.get("classes") or row.route_class in match["classes"])
        and (not match.get("keys") or key in match["keys"])
        and (not match.get("users") or row.user_id in match["users"])
    )


def _subject(per: Sequence[str], row: Row) -> str | None:
    key = row.actor_id if row.actor_type == "api_key" else None
    values = {"key": key, "user": row.user_id, "route": row.route, "class": row.route_class}
    parts = [part for part in per if part != "organization"]
    if any(values[part] is None for part in parts):
        return None
    return "|".join(f"{part}:{values[part]}" for part in parts) or "organization"


def _quota(policy: dict[str, Any], overrides: Sequence[dict[str, Any]], subject: str) -> int:
    quota: int = policy["quota"]
    longest = 0
    for each in overrides:
        if fnmatchcase(subject, each["pattern"]) and len(each["pattern"]) > longest:
            longest, quota = len(each["pattern"]), each["quota"]
    return quota


def replay(policy: dict[str, Any], overrides: Sequence[dict[str, Any]], rows: Sequence[Row]) -> dict[str, Outcome]:
    """What becomes of each subject's calls. Calls of one subject and minute must all cost the same."""
    found: dict[str, Outcome] = defaultdict(Outcome)
    minutes: dict[tuple[datetime, str], list[int]] = defaultdict(list)
    for row in rows:
        subject = _subject(policy.get("per", ["organization"]), row)
        if subject is None or not _is_for(policy.get("match", {}), row):
            continue
        calls, _, cost, refused_cost, _ = row.numbers
        each = (cost + refused_cost) // calls if policy.get("weighted", True) else 1
        minutes[row.minute, subject] += [each] * calls
    for (minute, subject), costs in sorted(minutes.items()):
        for number, cost in enumerate(costs):
            moment = minute + timedelta(seconds=number * 60 // len(costs))
            _decide(found[subject], _quota(policy, overrides, subject), policy, minute, moment, cost)
    return found


def _decide(
    outcome: Outcome, quota: int, policy: dict[str, Any], minute: datetime, moment: datetime, cost: int
) -> None:
    window = window_of(policy["window"], policy.get("timezone", "UTC"), moment)
    outcome.calls += 1
    outcome.cost += cost
    outcome.wanted[window] += cost
    if outcome.admitted[window] + cost <= quota:
        outcome.admitted[window] += cost
        return
    outcome.refused += 1
    outcome.refused_cost += cost
    outcome.refused_at.append(minute)
    outcome.hit.add(window)
