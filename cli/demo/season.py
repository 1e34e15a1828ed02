"""When work happens in the nominal year: working hours, slow weeks, the push at the end of a quarter."""

from cli.demo.dice import Dice
from cli.demo.story import DAYS, LAST_DAY, When

_QUARTER = 65
_LULLS = ((28, 37, 0.3), (148, 176, 0.65))
"""Two weeks in which hardly anybody works, and the slow weeks of the summer."""

# Quantiles of the hour at which something happens: a morning, a short noon, a long afternoon.
_HOURS = (7.3, 8.4, 9.1, 9.8, 10.5, 11.3, 12.9, 13.7, 14.5, 15.3, 16.3, 17.9)


def pace(day: int) -> float:
    """How much happens on a day, compared with an ordinary one."""
    growth = 0.85 + 0.3 * day / LAST_DAY
    for first, last, share in _LULLS:
        if first <= day <= last:
            return growth * share
    return growth * (1.3 if day % _QUARTER >= _QUARTER - 9 else 0.85 if day % _QUARTER < 6 else 1.0)


def working_hour(dice: Dice, day: int) -> When:
    """A moment within the working hours of a day."""
    return When(day, int(dice.along(_HOURS) * 3600))


def soon_after(dice: Dice, when: When) -> When:
    """A few minutes later."""
    return When(when.day, when.second + dice.between(90, 1500))


def busy_day(dice: Dice, first: int, last: int = LAST_DAY) -> int:
    """A day from ``first`` to ``last``, more likely one on which much happens."""
    day = first
    for _ in range(4):
        day = dice.between(first, max(first, min(last, DAYS + 40)))
        if dice.chance(pace(min(day, LAST_DAY)) / 1.5):
            break
    return day
