"""How the commands print: tables and lines for people, one JSON object a line for programs."""

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from shared import clock

_UNITS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+")
NOTHING = "–"


def print_json(values: Mapping[str, Any]) -> None:
    """One object, on one line."""
    print(orjson.dumps(values, default=str).decode(), flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], below: Sequence[Sequence[str]] | None = None) -> str:
    """Rows under a line of headings; a column that begins with ``>`` is of numbers. A terminal cuts the last one.

    ``below`` are further lines of each row, for what is long: they are never cut, so that they can be copied.
    """
    names = [column.removeprefix(">") for column in columns]
    widths = [max(map(len, cells)) for cells in zip(names, *rows, strict=True)]
    terminal = shutil.get_terminal_size().columns if sys.stdout.isatty() else None

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if column.startswith(">") else cell.ljust(width)
            for cell, column, width in zip(cells, columns, widths, strict=True)
        ]
        text = "  ".join(padded).rstrip()
        return text if terminal is None or len(text) <= terminal else f"{text[: terminal - 1]}…"

    head = line(names) if terminal is None else f"\033[1m{line(names)}\033[0m"
    further = below if below is not None else [()] * len(rows)
    indented = [[line(cells), *(f"  {each}" for each in lines)] for cells, lines in zip(rows, further, strict=True)]
    return "\n".join([head, *(each for lines in indented for each in lines)])


def fitting(text: str) -> str:
    """A text on one line of a table's ``below``; a terminal cuts it."""
    text = printable(" ".join(text.split()))
    room = shutil.get_terminal_size().columns - 2 if sys.stdout.isatty() else len(text)
    return text if len(text) <= room else f"{text[: room - 1]}…"


def printable(text: str) -> str:
    """A text of somebody else, without what would steer a terminal."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def moment(text: str) -> datetime:
    """A point in the past: ISO 8601 (UTC where no offset is given), or how long ago (``90s``, ``10m``, ``1h30m``, ``2d``).

    Raises ``ValueError`` with a sentence.
    """
    now = clock.now()
    if _DURATION.fullmatch(text):
        parts = re.findall(r"([\d.]+)([dhms])", text)
        try:
            return now - timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
        except OverflowError:
            raise ValueError(f"{text!r} is longer ago than there are dates") from None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no time: give one like 2026-01-31T12:00:00Z, or how long ago, like 90s, 10m, 2h or 1d"
        ) from None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    if found > now:
        raise ValueError(f"{text!r} is in the future")
    return found


def span(seconds: float) -> str:
    """A length of time in its largest units."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for unit, size, next_unit, next_size in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // next_size
            return f"{whole // size} {unit}" + (f" {rest} {next_unit}" if rest else "")
    return f"{whole} s"


def ago(then: datetime) -> str:
    """How long ago something was."""
    return f"{span(max((clock.now() - then).total_seconds(), 0.0))} ago"


def local(then: datetime) -> str:
    """A time in this machine's zone, to the millisecond."""
    return then.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def many(count: int, what: str) -> str:
    """``1 event``, ``2,000 events``."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")
