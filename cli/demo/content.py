"""A year in the life of a sales team, made from a seed: the same year on every machine and Python.

Every account has a story of its own: how big it is, how busy, when it came, who looks after it, and
whether it falls silent one day. Accounts do not know each other, so a history of fewer accounts is a part
of the whole one.
"""

from dataclasses import dataclass

from cli.demo import accounts
from cli.demo.deals import STAGES
from cli.demo.dice import Dice
from cli.demo.story import LAST_DAY, LAST_SECOND, Operation, Plan, When
from cli.demo.words import COMPETITORS, LANGUAGES, LOST_REASONS, SEGMENTS


@dataclass(frozen=True, slots=True)
class Size:
    """How much history there is."""

    companies: int
    people: int
    """Contacts without a company."""
    intensity: float = 1.0
    """How much is going on with each company."""


YEAR = Size(companies=320, people=140)
HANDFUL = Size(companies=3, people=3, intensity=0.05)

TEAM = ("Hanna Lindqvist", "Omar Haddad", "Clara Moretti", "Jonas Keller", "Priya Sharma", "Mateo Rojas", "Freya Holm")
"""The members of the first organisation; its owner comes first."""

_STAGES = [{"name": name, "kind": "open", "probability": percent} for name, percent in STAGES]
_CLOSED = [{"name": "Won", "kind": "won"}, {"name": "Lost", "kind": "lost"}]
_FIELDS = (
    ("company", "segment", "Segment", "select", SEGMENTS),
    ("company", "sites", "Sites", "number", ()),
    ("company", "customer_since", "Customer since", "date", ()),
    ("contact", "language", "Language", "select", LANGUAGES),
    ("contact", "newsletter", "Newsletter", "boolean", ()),
    ("deal", "competitor", "Competitor", "select", COMPETITORS),
    ("deal", "lost_reason", "Lost because of", "select", LOST_REASONS),
    ("activity", "minutes", "Minutes", "number", ()),
)


def history(size: Size = YEAR, *, seed: str = "guardian") -> list[Operation]:
    """What happened, in order. The last operation makes an activity in the last second."""
    plan = Plan()
    for number, (record, key, label, kind, options) in enumerate(_FIELDS):
        plan.create(When(0, 60 + number), 0, "custom_field", record_type=record, key=key, label=label, type=kind,
                    options=list(options))  # fmt: skip
    plan.create(When(0, 30), 0, "pipeline", name="Sales", is_default=True, stages=[*_STAGES, *_CLOSED])
    names = accounts.firm_names(Dice(f"{seed}:names"))
    for number in range(size.companies):
        accounts.Account(plan, Dice(f"{seed}:account:{number}"), number, names[number], size.intensity).tell()
    for number in range(size.people):
        accounts.tell_person(plan, Dice(f"{seed}:person:{number}"), number)
    plan.create(When(LAST_DAY, LAST_SECOND), 0, "activity", kind="note", subject="Plan for the coming days",
                body="Call back the accounts that have gone quiet.", occurred_at=When(LAST_DAY, LAST_SECOND))  # fmt: skip
    return plan.told()
