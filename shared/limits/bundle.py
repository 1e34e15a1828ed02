"""All limits that one call is under, decided together: it takes from every one of them or from none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from shared.limits.cells import Cell
from shared.limits.decision import Decision, Source, Verdict
from shared.limits.definitions import NO_DEFINITIONS, Definitions
from shared.limits.policies import Caller
from shared.limits.slots import Slots

Item = tuple[Cell, int]
"""A cell and what the call costs there."""
_verdict = tuple.__new__
_NEVER_SECONDS = 60.0
"""When to come back where that is no use, unless somebody raises the limit meanwhile."""
_SAME_SECONDS = 0.05
_AGAIN_SECONDS = 1
"""When to come back if it could not be decided."""


class _Spent(Decision):
    """A call that was admitted from units held. Its verdicts are made when somebody asks for them."""

    __slots__ = ()

    allowed = True
    retry_after = 0
    unavailable = False

    def __init__(self, enforced: Sequence[Item], now: float) -> None:
        self.taken = enforced
        self.taken_at = now

    @property
    def verdicts(self) -> tuple[Verdict, ...]:  # type: ignore[override]
        """Each limit's word, with what is left of it now."""
        now = self.taken_at
        # Verdict(...) itself would cost twice as much.
        return tuple(
            [
                _verdict(
                    Verdict,
                    (
                        cell.policy,
                        cell.subject,
                        cell.quota,
                        cell.left + cell.remaining,
                        cell.resets_at - now,
                        True,
                        "lease",
                    ),
                )
                for cell, _ in self.taken
            ]
        )

    def release(self) -> None:
        """Nothing was taken that comes back."""


class Bundle:
    """The cells of one caller and operation, with what a call costs in each."""

    __slots__ = (
        "_denied",
        "_denied_until",
        "caller",
        "definitions",
        "enforced",
        "hopeless",
        "plain",
        "shadows",
        "slots",
    )

    def __init__(
        self, items: Sequence[Item], definitions: Definitions = NO_DEFINITIONS, caller: Caller | None = None
    ) -> None:
        self.definitions = definitions
        self.caller = caller
        self.enforced = tuple((cell, cost) for cell, cost in items if not cell.policy.shadow)
        self.shadows = tuple((cell, cost) for cell, cost in items if cell.policy.shadow)
        self.slots = tuple(cell for cell, _ in self.enforced if isinstance(cell, Slots))
        self.plain = not self.slots and not self.shadows
        self.hopeless = any(cost > cell.quota for cell, cost in self.enforced)
        self._denied: Decision | None = None
        self._denied_until = -math.inf

    @property
    def dropped(self) -> bool:
        """Whether one of the cells has been forgotten, so that the bundle must be made again."""
        return any(cell.dropped for cell, _ in (*self.enforced, *self.shadows))

    def lacking(self, now: float, since: float = -math.inf) -> list[Cell]:
        """The cells about which the database must be asked. Leases asked for before ``since`` are not believed."""
        return [
            cell
            for cell, cost in self.enforced
            if not (cell.left >= cost and now < cell.expires and cell.leased_at >= since)
            and now >= cell.refused_until
            and not cell.may_borrow(cost, now)
        ]

    def refusing(self, now: float) -> bool:
        """Whether a limit is known to be used up, or can never give so much."""
        return self.hopeless or any(
            now < cell.refused_until and not (cell.left >= cost and now < cell.expires) for cell, cost in self.enforced
        )

    def spend(self, now: float) -> Decision:
        """``admit`` where every cell is known to hold enough, of a ``plain`` bundle: most calls, so kept short."""
        for cell, cost in self.enforced:
            cell.left -= cost
            cell.spent += cost
        return _Spent(self.enforced, now)

    def admit(self, now: float, source: Source) -> Decision:
        """Take from every cell; on credit where nothing is held."""
        verdicts, taken, running = [], [], list(self.slots)
        for cell, cost in self.enforced:
            _take(cell, cost, now)
            verdicts.append(cell.verdict(now, allowed=True, source=source))
            taken.append((cell, cost))
        for cell, cost in self.shadows:
            verdicts.append(_shadowed(cell, cost, now))
            if verdicts[-1].allowed:
                taken.append((cell, cost))
                running += [cell] if isinstance(cell, Slots) else []
        on_release = partial(_release, running) if running else None
        return Decision(True, tuple(verdicts), 0, False, taken, now, on_release)

    def deny(self, now: float) -> Decision:
        """Refuse because of what was said before. Within a moment everybody who asks is told the same."""
        if self._denied is None or now >= self._denied_until:
            self._denied = self.refuse(now, "cached-denial")
            ends = (cell.refused_until for cell, _ in self.enforced if now < cell.refused_until)
            self._denied_until = min([now + _SAME_SECONDS, *ends])
        return self._denied

    def refuse(self, now: float, source: Source) -> Decision:
        """Take from none."""
        verdicts, wait = [], 1.0
        for cell, cost in self.enforced:
            allowed = (cell.left >= cost and now < cell.expires) or now >= cell.refused_until
            verdict = cell.verdict(now, allowed=allowed, source=source)
            if not allowed:
                cell.missed = True
                wait = max(wait, cell.retry_in(now))
            elif cost > cell.quota:
                verdict = verdict._replace(allowed=False)
                wait = max(wait, verdict.resets_in, _NEVER_SECONDS)
            verdicts.append(verdict)
        return Decision(False, tuple(verdicts), math.ceil(wait))

    def fall_back(self, now: float) -> Decision:
        """Decide without the database, each policy as its ``on_failure`` says."""
        unsure = [(cell, cost) for cell, cost in self.enforced if not (cell.left >= cost and now < cell.expires)]
        closed = [cell for cell, cost in unsure if not _may_go_on(cell, cost, now)]
        if not closed:
            for cell, cost in unsure:
                if cell.policy.on_failure == "share":
                    cell.share = cell.share_left(now) - cost
            return self.admit(now, "fallback")
        verdicts: list[Verdict] = [
            cell.verdict(now, allowed=cell not in closed, source="fallback") for cell, _ in self.enforced
        ]
        used_up = [cell for cell in closed if cell.policy.on_failure != "closed"]
        if used_up:
            wait = max(_AGAIN_SECONDS, *(cell.retry_in(now) for cell in used_up))
            return Decision(False, tuple(verdicts), math.ceil(wait))
        return Decision(False, tuple(verdicts), _AGAIN_SECONDS, unavailable=True)


def _release(slots: Sequence[Slots]) -> None:
    for cell in slots:
        cell.release()


def _may_go_on(cell: Cell, cost: int, now: float) -> bool:
    if now < cell.refused_until:
        return False
    mode = cell.policy.on_failure
    return mode == "open" or (mode == "share" and cell.share_left(now) >= cost)


def _shadowed(cell: Cell, cost: int, now: float) -> Verdict:
    """Count a call that went on, under a limit that has no say: without waiting for anything."""
    if now < cell.refused_until and not (cell.left >= cost and now < cell.expires):
        return cell.verdict(now, allowed=False, source="cached-denial")
    _take(cell, cost, now)
    return cell.verdict(now, allowed=True, source="lease")


def _take(cell: Cell, cost: int, now: float) -> None:
    if cell.left >= cost and now < cell.expires:
        cell.take(cost)
    else:
        cell.borrow(cost)
