"""The story of one deal: through the stages over weeks, to a win, a loss, or still under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.demo.dice import Dice
from cli.demo.season import busy_day, soon_after, working_hour
from cli.demo.story import LAST_DAY, When
from cli.demo.words import COMPETITORS, LOST_REASONS, PRODUCTS, SCOPES

if TYPE_CHECKING:
    from cli.demo.accounts import Account

STAGES = (("Lead", 10), ("Qualified", 25), ("Proposal", 50), ("Negotiation", 75))
"""The open stages and how likely a deal in each of them is won, in percent."""
WON, LOST = len(STAGES), len(STAGES) + 1

# By tier. Days from the first talk to the decision, money in cents, the share that is won.
_CYCLE: tuple[tuple[float, ...], ...] = ((6, 14, 20, 30, 60), (15, 28, 40, 58, 110), (35, 60, 85, 120, 200))
_AMOUNT: tuple[tuple[float, ...], ...] = (
    (80_000, 250_000, 420_000, 900_000, 2_400_000),
    (600_000, 1_400_000, 2_600_000, 4_800_000, 12_000_000),
    (4_000_000, 9_000_000, 16_000_000, 30_000_000, 90_000_000),
)
_WIN_RATE = (0.36, 0.29, 0.24)
_SKILL = (1.0, 1.2, 1.0, 0.85, 1.1, 0.8, 1.05)
"""The team is not equally good at it."""

_LOST_AT = {0: 0.34, 1: 0.3, 2: 0.22, 3: 0.14}
_TALK_OF_STAGE = (
    ("call", "email"),
    ("meeting", "email", "note"),
    ("email", "task", "call"),
    ("call", "meeting", "note"),
)


def tell_deal(account: Account) -> When | None:
    """Plan one deal of the account; when it was won, or None."""
    dice, tier = account.dice, account.tier
    day = busy_day(dice, account.born.day, LAST_DAY - 1)
    opened = max(working_hour(dice, day), soon_after(dice, account.born))
    rep = account.owner(opened.day)
    if opened.day >= account.silent - 5:
        return None
    cycle = max(3, int(dice.along(_CYCLE[tier])))
    wins = dice.chance(_WIN_RATE[tier] * _SKILL[rep] * (1.25 if "customer" in account.tags else 1.0))
    product = dice.pick(PRODUCTS)
    amount = int(dice.along(_AMOUNT[tier])) // 5_000 * 5_000
    who = account.person(opened)
    fields = {"competitor": dice.pick(COMPETITORS)} if dice.chance(0.4) else {}
    expected = When(opened.day + cycle + dice.between(-4, 10), 17 * 3600)
    ref = account.plan.create(
        opened, rep, "deal", name=f"{account.firm[0]}: {product.lower()}, {dice.pick(SCOPES)}", stage=0,
        amount_minor=amount, currency="EUR", company=account.ref, contact=who.ref if who else None, owner=rep,
        expected_close_at=expected, tags=["renewal"] if "customer" in account.tags and dice.chance(0.3) else [],
        custom_fields=fields,
    )  # fmt: skip
    path = _path(dice, opened.day, cycle, wins)
    _haggle(account, ref, amount, path)
    return _walk(account, ref, product, opened, path)


def _path(dice: Dice, opened: int, cycle: int, wins: bool) -> list[tuple[int, int]]:
    """(day, stage) of every move: the stages in turn, then the decision."""
    reached = len(STAGES) - 1 if wins else dice.weighted(_LOST_AT)
    share = sorted(dice.between(1, 100) for _ in range(reached))
    span = cycle if wins else int(cycle * dice.along((0.5, 0.9, 1.5)))
    moves = [(opened + max(1, span * part // 110), stage + 1) for stage, part in enumerate(share)]
    last = moves[-1][0] if moves else opened
    return [*moves, (max(opened + span, last + 1), WON if wins else LOST)]


def _walk(account: Account, ref: int, product: str, opened: When, path: list[tuple[int, int]]) -> When | None:
    """Plan the moves and what is said meanwhile; when the deal was won, or None."""
    dice, since, stage = account.dice, opened, 0
    for day, target in path:
        # Several moves may fall on one day; they keep their order.
        when = max(working_hour(dice, day), soon_after(dice, since) if day == since.day else since)
        _talk_about(account, ref, product, since, when, stage)
        if when.day >= account.silent:
            _give_up(account, ref)
            return None
        if when.day > LAST_DAY:
            return None
        account.plan.update(when, account.owner(when.day), "deal", ref, stage=target)
        since, stage = when, target
    if stage == LOST:
        reason = {"lost_reason": dice.pick(LOST_REASONS)}
        account.plan.update(soon_after(dice, since), account.owner(since.day), "deal", ref, custom_fields=reason)
        return None
    account.say(working_hour(dice, since.day + 2), "meeting", product=product, deal=ref)
    return since


def _talk_about(account: Account, ref: int, product: str, since: When, until: When, stage: int) -> None:
    for kind in _TALK_OF_STAGE[stage]:
        if account.dice.chance(0.75):
            day = account.dice.between(since.day, max(since.day, min(until.day, LAST_DAY)))
            when = max(working_hour(account.dice, day), soon_after(account.dice, since) if day == since.day else since)
            account.say(when, kind, product=product, deal=ref)


def _give_up(account: Account, ref: int) -> None:
    """The account has fallen silent: some of its deals are closed weeks later, others just stay open."""
    day = account.silent + account.dice.between(15, 45)
    if account.dice.chance(0.5) and day <= LAST_DAY:
        when = working_hour(account.dice, day)
        actor = account.owner(day)
        account.plan.update(when, actor, "deal", ref, stage=LOST)
        reason = {"lost_reason": "no decision"}
        account.plan.update(soon_after(account.dice, when), actor, "deal", ref, custom_fields=reason)


def _haggle(account: Account, ref: int, amount: int, path: list[tuple[int, int]]) -> None:
    """The price changes on the way, mostly downwards."""
    dice, first = account.dice, path[0][0]
    last = path[-1][0] - 1
    if len(path) < 3 or last <= first or not dice.chance(0.5):
        return
    day = dice.between(first, last)
    if day < account.silent:
        changed = int(amount * dice.along((0.7, 0.9, 1.25))) // 5_000 * 5_000
        values: dict[str, Any] = {"amount_minor": max(changed, 5_000)}
        account.plan.update(working_hour(dice, day), account.owner(day), "deal", ref, **values)
