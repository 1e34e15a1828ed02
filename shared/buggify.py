"""Named fault points, compiled into production code and off unless a fault run switches them on.

FoundationDB's BUGGIFY: the code says where a fault would hurt most, and a seeded run decides whether it
happens there. ``GUARDIAN_BUGGIFY`` names a plan, which is looked at again while the process runs: ``{"seed": 7,
"faults": [{"id": "a", "point": "relay.sent", "action": "kill", "processes": ["alpha"], "activation": 1,
"probability": 0.2, "most": 1}]}``. Production never reads it. Two dice are thrown: one for each seed and fault
(``activation``), then one for each pass (``probability``). A firing is written to ``<plan>.log`` before it
happens, so that a run can show which points fired.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import orjson

VARIABLE = "GUARDIAN_BUGGIFY"
LOOK_SECONDS = 1.0
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
_ACTIONS = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP}


def process_name(arguments: list[str]) -> str:
    """What a plan calls a process: its service, ``alpha`` or ``alpha.worker``, from ``run alpha --role worker``."""
    words = [word for argument in arguments for word in argument.split("=")]
    service = words[words.index("run") + 1] if "run" in words[:-1] else Path(words[0] or "python").stem
    role = words[words.index("--role") + 1] if "--role" in words[:-1] else "all"
    return service if role == "all" else f"{service}.{role}"


class _Faults:
    def __init__(self, plan: Path, name: str) -> None:
        self._plan = plan
        self._log = plan.with_name(f"{plan.name}.log")
        self._name = name
        self._here: dict[str, list[dict[str, Any]]] = {}
        self._dice: dict[str, random.Random] = {}
        self._look_at = 0.0
        self._seen: tuple[int, int] | None = None
        # A restarted process must not throw its predecessor's dice, or it would die at the same place for ever;
        # and a run with the same seed must, so its number counts and not its process id.
        self._append(started=name)
        self._incarnation = sum(line.get("started") == name for line in self._lines())

    def pass_by(self, point: str) -> None:
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_SECONDS
            self._look()
        for fault in self._here.get(point, ()):
            if self._dice[fault["id"]].random() < fault.get("probability", 1) and not self._spent(fault):
                self._append(id=fault["id"], point=point, action=fault["action"], process=self._name)
                os.kill(os.getpid(), _ACTIONS[fault["action"]])

    def _look(self) -> None:
        try:
            stat = self._plan.stat()
        except FileNotFoundError:
            self._here, self._seen = {}, None
            return
        if (seen := (stat.st_ino, stat.st_mtime_ns)) == self._seen:
            return
        plan, self._seen, self._here = orjson.loads(self._plan.read_bytes()), seen, {}
        for fault in plan["faults"]:
            if fault["point"] not in POINTS or fault["action"] not in _ACTIONS:
                raise ValueError(f"{self._plan}: there is no point {fault['point']!r} or no action {fault['action']!r}")
            chosen = random.Random(f"{plan['seed']}/{fault['id']}").random() < fault.get("activation", 1)  # noqa: S311
            if chosen and self._name in fault.get("processes", [self._name]):
                self._here.setdefault(fault["point"], []).append(fault)
                dice = random.Random(f"{plan['seed']}/{fault['id']}/{self._name}/{self._incarnation}")  # noqa: S311
                self._dice.setdefault(fault["id"], dice)

    def _spent(self, fault: dict[str, Any]) -> bool:
        """Whether it has fired as often as it may, over all processes."""
        return bool(sum(line.get("id") == fault["id"] for line in self._lines()) >= fault.get("most", 1))

    def _lines(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self._log.read_bytes().splitlines()]

    def _append(self, **line: object) -> None:
        with self._log.open("ab", buffering=0) as log:  # one write, so that lines of several processes never mix
            log.write(orjson.dumps({**line, "pid": os.getpid(), "at": time.time()}) + b"\n")


_faults: _Faults | None = None
if os.environ.get(VARIABLE) and os.environ.get("GUARDIAN_ENVIRONMENT", "development") != "production":
    _faults = _Faults(Path(os.environ[VARIABLE]), process_name(sys.argv))


def buggify(point: str) -> None:
    """Maybe end (SIGKILL) or stop (SIGSTOP) this process here. Does nothing outside a fault run."""
    if _faults is not None:
        _faults.pass_by(point)
