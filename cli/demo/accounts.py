"""The story of one account: the firm, its people, what is said and written, and what goes wrong."""

from dataclasses import dataclass, field
from typing import Any

from cli.demo.deals import tell_deal
from cli.demo.dice import Dice
from cli.demo.season import busy_day, pace, soon_after, working_hour
from cli.demo.story import LAST_DAY, Date, Plan, When
from cli.demo.words import (
    COMPANY_TAGS,
    CONTACT_TAGS,
    FIRM_NAMES,
    FIRST_NAMES,
    INDUSTRIES,
    JOB_TITLES,
    LANGUAGES,
    LAST_NAMES,
    PRODUCTS,
    REMARKS,
    SEGMENTS,
    SUBJECTS,
)

_TIERS = {0: 0.62, 1: 0.29, 2: 0.09}
"""Small, mid-size, enterprise."""

_EMPLOYEES: tuple[tuple[float, ...], ...] = ((3, 12, 25, 48), (60, 140, 260, 480), (600, 1500, 4000, 12000))
_PEOPLE: tuple[tuple[float, ...], ...] = ((1, 3, 4, 9), (4, 7, 10, 18), (13, 20, 27, 44))
_DEALS = (1.1, 2.1, 4.2)
_TALKS = (0.085, 0.18, 0.45)
"""Activities on an ordinary working day."""

_BUSY = (0.1, 0.35, 0.7, 1.0, 1.4, 2.6)
_KINDS = {"email": 0.36, "call": 0.27, "note": 0.15, "meeting": 0.12, "task": 0.1}
_MINUTES: dict[str, tuple[float, ...]] = {"call": (2, 8, 15, 45), "meeting": (25, 45, 60, 180)}

_FIRST_MOMENT = When(0)
_REPS = range(1, 7)
_LEAVER, _HEIRS, _HANDOVER_DAY = 5, (2, 6), 172
"""One of the team moves on; two others take the accounts over."""


def firm_names(dice: Dice) -> list[tuple[str, str]]:
    """Every firm's name and industry, without repetition, in an order of chance."""
    names = [
        (f"{dice.pick(FIRM_NAMES)} {suffix}", industry)
        for industry, suffixes in INDUSTRIES.items()
        for suffix in suffixes
        for _ in range(20)
    ]
    unique = list(dict(names).items())
    keyed = sorted((dice.between(0, 1 << 40), index) for index in range(len(unique)))
    return [unique[index] for _, index in keyed]


@dataclass(slots=True)
class Person:
    """A contact as its account knows it: from when, and until when, it can take part in something."""

    ref: int
    name: str
    known: When
    gone: When


@dataclass(slots=True)
class Account:
    """One company. ``tell`` plans all that happens with it."""

    plan: Plan
    dice: Dice
    number: int
    firm: tuple[str, str]
    intensity: float = 1.0
    tier: int = 0
    born: When = _FIRST_MOMENT
    silent: int = LAST_DAY + 1
    """The first day on which nothing happens any more."""
    ref: int = 0
    busy: float = 1.0
    tags: list[str] = field(default_factory=list)
    people: list[Person] = field(default_factory=list)

    def tell(self) -> None:
        """The whole story."""
        dice = self.dice
        self.tier, self.busy = dice.weighted(_TIERS), dice.along(_BUSY) * self.intensity
        old = dice.chance(0.64)
        self.born = working_hour(dice, dice.between(0, 2) if old else busy_day(dice, 3, LAST_DAY - 4))
        if old and dice.chance(0.16):
            self.silent = dice.between(105, 225)
        self._found(old)
        closes = self.silent <= LAST_DAY and self.tier == 0 and dice.chance(0.4)
        for _ in range(max(1, int(dice.along(_PEOPLE[self.tier])))):
            self._meet_person()
        won = [tell_deal(self) for _ in range(dice.count(_DEALS[self.tier] * (0.5 + 0.5 * self.busy)))]
        first_won = min((when for when in won if when is not None), default=None)
        if first_won is not None and not old:
            self._becomes_customer(first_won)
        self._talk()
        if closes:
            # Some of the silent firms have closed, and somebody notices weeks later.
            noticed = working_hour(dice, self.silent + dice.between(10, 30))
            self.plan.delete(noticed, self.owner(noticed.day), "company", self.ref)
        else:
            self._change_with_time()

    def owner(self, day: int) -> int:
        """Who looks after the account on a day."""
        rep = _REPS[self.number * 7 % len(_REPS)]
        return _HEIRS[self.number % 2] if rep == _LEAVER and day >= _HANDOVER_DAY else rep

    def person(self, when: When) -> Person | None:
        """Somebody who can take part at that moment, and is there for the rest of the day: more often one of the first."""
        present = [each for each in self.people if each.known < when and when.day < each.gone.day]
        return present[min(self.dice.between(0, len(present) - 1) for _ in range(2))] if present else None

    def say(self, when: When, kind: str, *, product: str, deal: int | None = None) -> None:
        """One activity with somebody there."""
        if when.day >= self.silent:
            return
        who = self.person(when)
        words = {"name": who.name if who else self.firm[0], "product": product, "industry": self.firm[1].lower()}
        values: dict[str, Any] = {
            "kind": kind,
            "subject": self.dice.pick(SUBJECTS[kind]).format(**words),
            "body": self.dice.pick(REMARKS).format(**words) if self.dice.chance(0.45) else "",
            "occurred_at": when,
            "company": self.ref,
            "contact": who.ref if who else None,
            "deal": deal,
        }
        if kind in _MINUTES and self.dice.chance(0.7):
            values["custom_fields"] = {"minutes": int(self.dice.along(_MINUTES[kind]))}
        if kind == "task":
            values["due_at"] = When(when.day + self.dice.between(1, 9), 16 * 3600)
        logged = soon_after(self.dice, when)
        actor = self.owner(when.day)
        ref = self.plan.create(logged, actor, "activity", owner=actor, **values)
        if kind == "task" and self.dice.chance(0.82):
            done = working_hour(self.dice, logged.day + self.dice.between(1, 11))
            self.plan.update(done, self.owner(done.day), "activity", ref, completed_at=done)

    def _found(self, old: bool) -> None:
        dice, actor = self.dice, self.owner(self.born.day)
        name, industry = self.firm
        self.tags = ["customer" if old else "prospect", *([dice.pick(COMPANY_TAGS)] if dice.chance(0.35) else [])]
        fields: dict[str, Any] = {"segment": SEGMENTS[self.tier], "sites": 1 + int(self.tier * dice.along((1, 2, 9)))}
        if old:
            fields["customer_since"] = Date(self.born.day)
        self.ref = self.plan.create(
            self.born, actor, "company", name=name, domain=self.domain, industry=industry, phone=phone(dice),
            employee_count=int(dice.along(_EMPLOYEES[self.tier])), owner=actor, tags=self.tags, custom_fields=fields,
        )  # fmt: skip

    @property
    def domain(self) -> str:
        """The firm's domain, under a name that is reserved for examples."""
        return self.firm[0].lower().replace(" ", "-") + ".example"

    def _meet_person(self) -> None:
        dice = self.dice
        last = min(LAST_DAY, self.silent - 1)
        early = not self.people or dice.chance(0.5)
        when = soon_after(dice, self.born) if early else working_hour(dice, busy_day(dice, self.born.day, last))
        when = max(when, soon_after(dice, self.born))
        first, family = dice.pick(FIRST_NAMES), dice.pick(LAST_NAMES)
        taken = sum(each.name == f"{first} {family}" for each in self.people)
        email = f"{first}.{family}{taken + 1 if taken else ''}@{self.domain}".lower()
        ref = tell_contact(self.plan, dice, when, self.owner(when.day), self.ref, (first, family, email))
        gone = When(LAST_DAY + 1)
        if dice.chance(0.035) and when.day < LAST_DAY - 20:
            gone = working_hour(dice, dice.between(when.day + 5, LAST_DAY))
            self.plan.delete(gone, self.owner(gone.day), "contact", ref)
            if dice.chance(0.3):
                self.plan.restore(working_hour(dice, gone.day + 1), self.owner(gone.day + 1), "contact", ref)
        elif dice.chance(0.17):
            change_contact(self.plan, dice, self.owner, ref, when.day)
        self.people.append(Person(ref, f"{first} {family}", when, gone))

    def _becomes_customer(self, when: When) -> None:
        self.tags = ["customer", *self.tags[1:]]
        self.plan.update(
            soon_after(self.dice, when), self.owner(when.day), "company", self.ref, tags=self.tags,
            custom_fields={"customer_since": Date(when.day)},
        )  # fmt: skip

    def _talk(self) -> None:
        for day in range(self.born.day + 1, min(self.silent, LAST_DAY + 1)):
            for _ in range(self.dice.count(_TALKS[self.tier] * self.busy * pace(day))):
                kind = self.dice.weighted(_KINDS)
                self.say(working_hour(self.dice, day), kind, product=self.dice.pick(PRODUCTS))

    def _change_with_time(self) -> None:
        dice, first = self.dice, self.born.day + 5
        if self.owner(0) != self.owner(LAST_DAY) and self.born.day < _HANDOVER_DAY:
            day = _HANDOVER_DAY + dice.between(0, 1)
            self.plan.update(working_hour(dice, day), 0, "company", self.ref, owner=self.owner(day))
        if dice.chance(0.4) and first < LAST_DAY:
            when = working_hour(dice, busy_day(dice, first))
            count = int(dice.along(_EMPLOYEES[self.tier]))
            self.plan.update(when, self.owner(when.day), "company", self.ref, employee_count=count)
        if dice.chance(0.1) and first < LAST_DAY:
            when = working_hour(dice, dice.between(first, LAST_DAY))
            self.plan.update(when, self.owner(when.day), "company", self.ref, phone=phone(dice))


def tell_person(plan: Plan, dice: Dice, number: int) -> None:
    """A contact without a company: a visitor of the site or of a fair, seldom heard of again."""
    when = working_hour(dice, busy_day(dice, 0))
    first, family, actor = dice.pick(FIRST_NAMES), dice.pick(LAST_NAMES), _REPS[number % len(_REPS)]
    email = f"{first}.{family}.{number}@example.com".lower()
    ref = tell_contact(plan, dice, when, actor, None, (first, family, email))
    if dice.chance(0.5):
        said = soon_after(dice, when)
        plan.create(soon_after(dice, said), actor, "activity", kind="email", subject="Thank you for your interest",
                    body="", occurred_at=said, owner=actor, contact=ref)  # fmt: skip
    if dice.chance(0.08) and when.day < LAST_DAY:
        plan.delete(working_hour(dice, dice.between(when.day + 1, LAST_DAY)), actor, "contact", ref)


def tell_contact(
    plan: Plan, dice: Dice, when: When, actor: int, company: int | None, names: tuple[str, str, str]
) -> int:
    """A new contact; its number."""
    first, family, email = names
    fields: dict[str, Any] = {"language": dice.pick(LANGUAGES)} if dice.chance(0.6) else {}
    if dice.chance(0.3):
        fields["newsletter"] = dice.chance(0.7)
    return plan.create(
        when, actor, "contact", first_name=first, last_name=family, email=email,
        phone=phone(dice) if dice.chance(0.65) else None,
        job_title=dice.pick(JOB_TITLES) if company is not None else None, company=company, owner=actor,
        tags=[dice.pick(CONTACT_TAGS)] if dice.chance(0.4) else [], custom_fields=fields,
    )  # fmt: skip


def change_contact(plan: Plan, dice: Dice, owner: Any, ref: int, known: int) -> None:
    """Something about a contact changes one day."""
    if known + 3 > LAST_DAY:
        return
    when = working_hour(dice, dice.between(known + 3, LAST_DAY))
    changes: tuple[dict[str, Any], ...] = (
        {"job_title": dice.pick(JOB_TITLES)},
        {"phone": phone(dice)},
        {"tags": [dice.pick(CONTACT_TAGS), "reviewed"]},
        {"custom_fields": {"newsletter": False}},
    )
    plan.update(when, owner(when.day), "contact", ref, **dice.pick(changes))


def phone(dice: Dice) -> str:
    """A number of the kind that films use: nobody has it."""
    return f"+1 {dice.pick((202, 303, 404, 512, 617))}-555-01{dice.between(0, 99):02}"
