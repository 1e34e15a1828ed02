"""The pure parts of the limiter bench: who asks how often, how long it took, and whether the counts are exact."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

HOT_SHARE = 0.01
"""Hot keys are this part of all of them, the most frequent ones."""

FINE = 1 << 16
FINE_SHIFT = 5
"""Times below ``FINE`` nanoseconds have a bucket each of 2 ** ``FINE_SHIFT``."""

_COARSE_BITS = 7
_BUCKETS = 34 << _COARSE_BITS


def draws(keys: int, skew: float, count: int, seed: int) -> "array[int]":
    """``count`` keys, 0 the most frequent: the key of rank r (from 1) has a weight of 1 / r ** ``skew``."""
    bounds = list(accumulate(1 / rank**skew for rank in range(1, keys + 1)))
    return array("I", Random(seed).choices(range(keys), cum_weights=bounds, k=count))


def drawn_share(keys: int, skew: float, first: int) -> float:
    """The share of calls that the ``first`` keys have."""
    weights: list[float] = [1 / rank**skew for rank in range(1, keys + 1)]
    return sum(weights[:first]) / sum(weights)


def hot_keys(keys: int) -> int:
    """How many keys are hot; they are the first ones."""
    return max(1, round(keys * HOT_SHARE))


class Histogram:
    """How many nanoseconds things took, in memory that does not grow.

    Up to 65 µs to within 32 ns, in ``fine``, which the busiest of loops adds to by itself; beyond to within a
    hundredth, and up to 18 minutes.
    """

    def __init__(self, fine: Sequence[int] = (), coarse: Sequence[int] = ()) -> None:
        self.fine = list(fine) or [0] * (FINE >> FINE_SHIFT)
        self.coarse = list(coarse) or [0] * _BUCKETS

    def add(self, nanoseconds: int) -> None:
        """Count one."""
        if nanoseconds < FINE:
            self.fine[nanoseconds >> FINE_SHIFT] += 1
        else:
            # Each power of two has 128 buckets.
            shift = nanoseconds.bit_length() - _COARSE_BITS - 1
            self.coarse[(shift << _COARSE_BITS) + (nanoseconds >> shift)] += 1

    def merge(self, other: "Histogram") -> None:
        """Count all of another one's too."""
        self.fine = [mine + theirs for mine, theirs in zip(self.fine, other.fine, strict=True)]
        self.coarse = [mine + theirs for mine, theirs in zip(self.coarse, other.coarse, strict=True)]

    def __len__(self) -> int:
        return sum(self.fine) + sum(self.coarse)

    def microseconds(self, share: float) -> float:
        """What ``share`` of them did not exceed (the upper end of the bucket); 0 when there are none."""
        wanted, seen = share * len(self), 0
        for index, count in enumerate((*self.fine, *self.coarse)):
            seen += count
            if count and seen >= wanted:
                fine = index < len(self.fine)
                return ((index + 1) << FINE_SHIFT if fine else _upper_end(index - len(self.fine))) / 1000
        return 0.0


def _upper_end(index: int) -> int:
    """Of a coarse bucket, in nanoseconds."""
    shift = (index >> _COARSE_BITS) - 1
    return (index - (shift << _COARSE_BITS) + 1) << shift


@dataclass(frozen=True)
class Counted:
    """A key's row in the database: units debited, and units that processes said they had admitted."""

    used: int
    admitted: int


def violations(
    quota: int, admitted: Sequence[Sequence[int]], refused: Sequence[Sequence[int]], rows: Mapping[int, Counted]
) -> list[str]:
    """What is not exact, a sentence each: counts of each process by key, beside the rows of the same window.

    Every process has to be still there when it is refused, and to have settled what it held since.
    """
    found = []
    for key in range(len(admitted[0])):
        let_in, turned_away = (sum(each[key] for each in counts) for counts in (admitted, refused))
        row = rows.get(key, Counted(0, 0))
        if let_in > quota:
            found.append(f"key {key}: {let_in} admitted, more than its quota of {quota}")
        if turned_away and let_in < quota:
            found.append(f"key {key}: {turned_away} refused, though only {let_in} of {quota} were admitted")
        if row.admitted != let_in:
            found.append(f"key {key}: the database knows of {row.admitted} admitted, and {let_in} were")
        if not row.admitted <= row.used <= quota:
            found.append(f"key {key}: {row.used} debited, {row.admitted} admitted, and the quota is {quota}")
    return found
