"""Named fault points, compiled into production code and off unless a fault run switches them on.

FoundationDB's BUGGIFY: the code says where a fault would hurt most, and a seeded run decides whether it
happens there. ``GUARDIAN_BUGGIFY`` is a JSON object ``{"seed": 7, "log": "/path", "points": {"relay.sent":
{"action": "kill", "probability": 0.02, "most": 3}}}``; production never reads it. Each firing is written to
the log before it happens, so that a run can show which points fired.
"""

import os
import random
import signal
import time
from typing import Any

import orjson

VARIABLE = "GUARDIAN_BUGGIFY"
POINTS = (
    "unit_of_work.committed",
    "relay.read",
    "relay.sent",
    "relay.removed",
    "consumer.handled",
    "consumer.effect",
    "consumer.offset",
)
"""Every point there is: after a commit and before its answer; after the relay has read, sent, removed a batch;
inside a handler's transaction; between effect and offset; after the offset."""


class _Faults:
    def __init__(self, plan: dict[str, Any]) -> None:
        unknown = set(plan["points"]) - set(POINTS)
        if unknown:
            raise ValueError(f"{VARIABLE} names points that do not exist: {', '.join(sorted(unknown))}")
        self._points: dict[str, dict[str, Any]] = plan["points"]
        self._log = str(plan["log"])
        # A restarted process must not repeat its predecessor's dice, or it would die at the same place for ever.
        self._dice = random.Random(f"{plan['seed']}/{os.getpid()}")  # noqa: S311 (a test's dice)

    def pass_by(self, point: str) -> None:
        fault = self._points.get(point)
        if fault is None or self._dice.random() >= fault["probability"] or self._spent(point, fault):
            return
        line = orjson.dumps({"point": point, "action": fault["action"], "pid": os.getpid(), "at": time.time()})
        with open(self._log, "ab", buffering=0) as log:  # noqa: PTH123 (one atomic append)
            log.write(line + b"\n")
        os.kill(os.getpid(), signal.SIGSTOP if fault["action"] == "pause" else signal.SIGKILL)

    def _spent(self, point: str, fault: dict[str, Any]) -> bool:
        """Whether the point has fired as often as it may, over all processes that share the log."""
        if not os.path.exists(self._log):  # noqa: PTH110
            return False
        with open(self._log, "rb") as log:  # noqa: PTH123
            return sum(orjson.loads(line)["point"] == point for line in log) >= fault["most"]


_faults: _Faults | None = None
if os.environ.get(VARIABLE) and os.environ.get("GUARDIAN_ENVIRONMENT", "development") != "production":
    _faults = _Faults(orjson.loads(os.environ[VARIABLE]))


def buggify(point: str) -> None:
    """Maybe end (SIGKILL) or stop (SIGSTOP) this process here. Does nothing outside a fault run."""
    if _faults is not None:
        _faults.pass_by(point)
