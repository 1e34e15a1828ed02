"""What a gateway run leaves behind for the checker: what clients sent, what they were told, what is in the database."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Purpose = Literal["keyed", "once", "read", "changed"]
"""A POST with an Idempotency-Key, sent until it is answered; one without, sent once and then replayed; a GET; a POST
whose content is not what was signed."""
Outcome = Literal["answer", "refused", "broken", "silent"]
"""A whole answer; no connection; an answer that began and did not end; nothing after the request was sent."""
What = Literal[
    "doubled", "lost", "phantom", "different", "unmarked", "replayed", "executed", "server-error", "malformed",
    "unexpected", "torn", "no-retry-after", "retries",
]  # fmt: skip
KINDS: tuple[What, ...] = (
    "doubled", "lost", "phantom", "different", "unmarked", "replayed", "executed", "server-error", "malformed",
    "unexpected", "torn", "no-retry-after", "retries",
)  # fmt: skip
"""There twice; acknowledged and not there; there although it was refused for good; answered differently; answered again
without saying so; a signature accepted twice; content executed that nobody signed; a 500; no problem+json; a code that is
not of the set; an answer passed on as whole that was not; a 503 without Retry-After; more retries than the budget has."""


@dataclass(slots=True)
class Attempt:
    """One request on the wire, and what came of it. Times are monotonic seconds."""

    gateway: int
    began: float
    ended: float
    outcome: Outcome
    status: int = 0
    code: str = ""
    """Of a problem; ``?`` where the answer is no problem+json that agrees with its status."""
    answer: str = ""
    """A digest of what must not differ: content, Location, ETag."""
    marked: bool = False
    """Whether it says ``Idempotency-Replayed: true``."""
    retry_after: str = ""
    sound: bool = True
    """Whether a whole answer's content can be read to its end."""
    replay: bool = False
    """Whether it is a signature that was sent before, and may not be good again."""

    @property
    def acknowledged(self) -> bool:
        """Whether it was a whole answer that says that it was done."""
        return self.outcome == "answer" and 200 <= self.status < 300


@dataclass(slots=True)
class Operation:
    """One thing a client wanted. ``name`` is in the row it makes; ``signed`` in unix seconds."""

    name: str
    purpose: Purpose
    signed: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def acknowledged(self) -> bool:
        """Whether any of its answers says that it was done."""
        return any(each.acknowledged for each in self.attempts)


class Outage(NamedTuple):
    """PostgreSQL was away, in unix seconds."""

    began: float
    ended: float


class Look(NamedTuple):
    """A gateway's own figures at a moment: calls to services and how many of them were tried again."""

    gateway: str
    service: str
    requests: float
    retries: float


class Violation(NamedTuple):
    kind: What
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass
class History:
    """A run. ``rows`` counts what is in the database, by the name of the operation."""

    operations: Sequence[Operation]
    rows: Mapping[str, int]
    looks: Sequence[Look] = ()


@dataclass
class Findings:
    """What came out of it, and how much there was to judge."""

    violations: list[Violation] = field(default_factory=list)
    acknowledged: int = 0
    replays: int = 0
    marked: int = 0
    broken: int = 0
    retries: int = 0
    told: Counter[str] = field(default_factory=Counter)
    """How often what was said that is no success, replays left out; or how else it ended."""

    def count(self, *kinds: What) -> int:
        """How many violations of these kinds there are."""
        return sum(each.kind in kinds for each in self.violations)
