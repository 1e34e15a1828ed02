"""Repeatable chance: the same throws on every machine and every Python.

Only ``random()`` of the standard library's generator is promised to stay the same between versions, and
logarithms may differ in their last digit between C libraries. So everything here is made of ``random()``
and plain arithmetic; distributions are given as tables of their quantiles.
"""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """A stream of chance of its own for each ``seed``."""

    def __init__(self, seed: str) -> None:
        self._random = Random(seed).random  # noqa: S311 (invented people, no secrets)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._random() < probability

    def between(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        return low + int(self._random() * (high - low + 1))

    def pick(self, choices: Sequence[T]) -> T:
        """One of ``choices``, each as likely as the others."""
        return choices[int(self._random() * len(choices))]

    def weighted(self, weights: dict[T, float]) -> T:
        """One of the keys, as likely as its weight says."""
        left = self._random() * sum(weights.values())
        for choice, weight in weights.items():
            left -= weight
            if left < 0:
                return choice
        return next(reversed(weights))

    def along(self, quantiles: Sequence[float]) -> float:
        """A number of the distribution with these equally spaced quantiles (lowest first)."""
        place = self._random() * (len(quantiles) - 1)
        index = int(place)
        low, high = quantiles[index], quantiles[index + 1]
        return low + (high - low) * (place - index)

    def count(self, expected: float) -> int:
        """A whole number near ``expected``, which is its mean."""
        return int(expected) + self.chance(expected - int(expected))
