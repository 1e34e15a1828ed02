"""Rules of deals: what a stage makes of a deal."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any


def placed(stage: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The fields of a deal that enters ``stage`` at ``now``: a stage that wins or loses it also closes it."""
    return {
        "pipeline_id": stage["pipeline_id"],
        "stage_id": stage["id"],
        "status": stage["kind"],
        "stage_changed_at": now,
        "closed_at": None if stage["kind"] == "open" else now,
    }
