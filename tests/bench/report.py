"""How a bench reports: a table for people on standard error, one JSON line on standard output."""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import asyncpg

Better = Literal["lower", "higher"]
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")


@dataclass(frozen=True)
class Bar:
    """One figure the issue names, beside what it must reach. ``peer_value`` was measured in this run."""

    name: str
    value: float
    bar: float
    better: Better
    unit: str
    n: int
    spread: tuple[float, ...]
    peer: str | None = None
    peer_value: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the figure reaches the bar (a figure on the bar does)."""
        return self.value <= self.bar if self.better == "lower" else self.value >= self.bar

    def as_json(self) -> dict[str, Any]:
        """The entry of the JSON line."""
        return {
            "name": self.name,
            "value": _round(self.value),
            "bar": self.bar,
            "better": self.better,
            "peer": self.peer,
            "peer_value": None if self.peer_value is None else _round(self.peer_value),
            "holds": self.holds,
            "unit": self.unit,
            "n": self.n,
            "spread": [_round(each) for each in self.spread],
        }

    def as_text(self) -> str:
        """The line for people."""
        sign = "≤" if self.better == "lower" else "≥"
        spread = f", {min(self.spread):,.4g} to {max(self.spread):,.4g}" if self.spread else ""
        peer = f"; {self.peer}: {self.peer_value:,.4g}" if self.peer and self.peer_value is not None else ""
        mark = "✓" if self.holds else "✗"
        return (
            f"{mark} {self.name}: {self.value:,.4g} {self.unit} (bar {sign} {self.bar:,.4g}; n={self.n}{spread}{peer})"
        )


def _round(value: float) -> float:
    return float(f"{value:.4g}") if abs(value) < 1000 else round(value)


class Report:
    """Collects a bench's bars; each is shown when it is known, the JSON line comes last."""

    def __init__(self, bench: str) -> None:
        self._bench = bench
        self._bars: list[Bar] = []

    def bar(
        self,
        name: str,
        value: float,
        bar: float,
        *,
        better: Better,
        unit: str,
        n: int,
        spread: Sequence[float] = (),
        peer: str | None = None,
        peer_value: float | None = None,
    ) -> None:
        """Add a figure: ``n`` measurements, whose middle half (or whole range) is ``spread``."""
        self._bars.append(Bar(name, value, bar, better, unit, n, tuple(spread), peer, peer_value))
        print(self._bars[-1].as_text(), file=sys.stderr, flush=True)

    def median(self, name: str, values: Sequence[float], bar: float, *, better: Better, unit: str) -> None:
        """Add the median of ``values``, with their whole range as the spread."""
        spread = (min(values), max(values))
        self.bar(name, statistics.median(values), bar, better=better, unit=unit, n=len(values), spread=spread)

    def finish(self) -> int:
        """Print the JSON line; returns the exit status, 1 when a bar does not hold or there is none."""
        print(json.dumps({"bench": self._bench, "bars": [bar.as_json() for bar in self._bars]}), flush=True)
        return 0 if self._bars and all(bar.holds for bar in self._bars) else 1


async def require_durable(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Refuse to measure a server that does not keep what it acknowledges."""
    for name in DURABLE:
        value = await connection.fetchval("SELECT current_setting($1)", name)
        if value != "on":
            sys.exit(f"{name} is {value}: figures of a server that may lose data mean nothing. Set it to on.")
