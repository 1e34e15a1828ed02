"""When to look at which cell again: a timer wheel, so that ten thousand quiet cells cost nothing."""

from __future__ import annotations

import math

from shared.limits.cells import Cell


class Wheel:
    """Cells by the time they are due, in steps of ``step`` seconds; a cell is due once, at the earliest time asked for."""

    def __init__(self, step: float) -> None:
        self._step = step
        self._buckets: dict[int, list[Cell]] = {}
        self._turned = 0

    def at(self, cell: Cell, moment: float) -> None:
        """Look at the cell not much later than ``moment``."""
        if moment < cell.due:
            cell.due = moment
            place = max(int(moment / self._step), self._turned) + 1
            self._buckets.setdefault(place, []).append(cell)

    def turn(self, now: float) -> list[Cell]:
        """The cells that are due by ``now``; each must be put back to be seen again."""
        until = int(now / self._step)
        places = [place for place in self._buckets if place <= until]
        self._turned = until
        found = []
        for place in places:
            for cell in self._buckets.pop(place):
                if cell.due <= now:  # else it was due earlier once, and has been seen since
                    cell.due = math.inf
                    found.append(cell)
        return found
