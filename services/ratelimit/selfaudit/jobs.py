"""Adds up windows that ended: more admitted than allowed is said aloud, units that nobody spent are counted."""

from datetime import timedelta

import structlog
from prometheus_client import Counter

from services.ratelimit.selfaudit import repository
from shared.db import Database
from shared.events import Job

EVERY_SECONDS = 60.0
GRACE = timedelta(seconds=60)
"""How long after a window's end everybody has reported what it spent."""

WINDOWS = Counter("guardian_limits_windows_audited", "Windows that ended and were looked at, by mode", ["mode"])
OVERSHOOT = Counter(
    "guardian_limits_overshoot_units",
    "Units admitted beyond a window's highest quota, shadow mode left out; fast may pass it by a tenth, others never",
    ["mode"],
)
STRANDED = Counter(
    "guardian_limits_stranded_units", "Units handed out and never spent, with dead processes or lost answers", ["mode"]
)
_log = structlog.get_logger(__name__)


def audit(database: Database) -> Job:
    """Looks at each window once."""

    async def run() -> None:
        async with database.transaction() as session:
            rows = await repository.add_up(session, GRACE)
        for row in rows:
            WINDOWS.labels(row["mode"]).inc(row["windows"])
            OVERSHOOT.labels(row["mode"]).inc(row["overshoot"])
            STRANDED.labels(row["mode"]).inc(row["stranded"])
            if row["overshoot"] and row["mode"] != "fast":
                _log.error("limits_overshoot", mode=row["mode"], units=row["overshoot"], windows=row["windows"])

    return Job("limits-audit", EVERY_SECONDS, run)
