"""Where a nominal history lies in real time: working days counted back from the day it ends."""

from datetime import UTC, date, datetime, timedelta

from cli.demo.story import LAST_DAY, Date, When

YEAR = timedelta(days=365)
_ONE_DAY = timedelta(days=1)
_SATURDAY = 5


class Schedule:
    """The days of a history that ends at ``end``.

    The last day is the day of ``end``, even a Sunday; the other ones are weekdays. So the same history
    fits any day, and work happens on working days. What the last day holds is pressed together between
    midnight and ``end``, so that nothing has happened yet that lies in the future.
    """

    def __init__(self, end: datetime) -> None:
        self.end = end
        self._midnight = datetime(end.year, end.month, end.day, tzinfo=UTC)
        today = end.date()
        past = [today]
        while len(past) <= LAST_DAY:
            past.append(_step(past[-1], -_ONE_DAY))
        self._days = past[::-1]

    def at(self, when: When) -> datetime:
        """The moment of ``when``; days beyond the last one are weekdays to come."""
        if when.day == LAST_DAY:
            passed = max((self.end - self._midnight).total_seconds(), 1.0)
            return self._midnight + timedelta(seconds=when.second * passed / 86_400)
        day = self.date(Date(when.day))
        return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(seconds=when.second)

    def date(self, value: Date) -> date:
        """The date of a nominal day."""
        while value.day >= len(self._days):
            self._days.append(_step(self._days[-1], _ONE_DAY))
        return self._days[value.day]


def _step(day: date, step: timedelta) -> date:
    day += step
    while day.weekday() >= _SATURDAY:
        day += step
    return day
