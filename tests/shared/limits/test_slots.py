"""Slots on their own: what may begin while a statement is under way, beyond what is held, and for how long."""

from dataclasses import replace

import pytest

from shared.ids import NIL
from shared.limits.slots import SLOT_SECONDS, Slots
from tests.shared.limits.simulation import policy

NOW = 100.0
AT_ONCE = policy(0, 100, window=None, unit="concurrent-requests")


@pytest.fixture
def slots() -> Slots:
    made = Slots((NIL, AT_ONCE.id, 1, "organization"), AT_ONCE, AT_ONCE.quota)
    made.hold(10, 90, 5, 0, NOW)
    return made


def test_what_is_stated_covers_what_may_begin_before_the_answer(slots: Slots) -> None:
    for _ in range(6):
        slots.take(1)
    for _ in range(5):
        slots.release()
    need, want = slots.wants(NOW, 0)
    assert need == slots.running + slots.left
    assert want >= need
    slots.peak, slots.touched = slots.running, False  # called back
    assert slots.wants(NOW, 0) == (1, 1)
    assert slots.left == 0


def test_what_has_expired_is_not_kept(slots: Slots) -> None:
    slots.take(1)
    assert slots.wants(NOW + SLOT_SECONDS, 2) == (3, 3)
    assert slots.left == 0


def test_a_fast_policy_lets_a_tenth_begin_beyond_what_is_held(slots: Slots) -> None:
    slots.policy = replace(AT_ONCE, mode="fast")
    begun = 0
    while slots.left > 0 or slots.may_borrow(1, NOW):
        slots.take(1)
        begun += 1
    assert begun == 10 + 100 // 10 // 5


def test_who_runs_something_states_it_again_whatever_was_forgotten(slots: Slots) -> None:
    slots.take(1)
    assert not slots.ages(NOW + 1)
    assert slots.ages(NOW + SLOT_SECONDS / 2)
    slots.revoke(NOW + 1)
    assert slots.ages(NOW + 1)
    slots.release()
    assert not slots.ages(NOW + 1)
