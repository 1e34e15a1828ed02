"""The timer wheel: who is due, when, and only once."""

from random import Random

from shared.ids import NIL, new_id
from shared.limits.cells import Cell
from shared.limits.policies import Policy
from shared.limits.wheel import Wheel

STEP = 0.1


def cell() -> Cell:
    policy = Policy(new_id(), NIL, "any", 1)
    return Cell((NIL, policy.id, 1, "organization"), policy, 1)


def test_a_cell_is_due_once_and_not_before_its_time() -> None:
    wheel, one = Wheel(STEP), cell()
    wheel.at(one, 1.0)
    assert wheel.turn(0.95) == []
    assert wheel.turn(1.0 + 2 * STEP) == [one]
    assert wheel.turn(50.0) == []


def test_the_earliest_time_counts_and_the_later_one_is_forgotten() -> None:
    wheel, one = Wheel(STEP), cell()
    wheel.at(one, 5.0)
    wheel.at(one, 1.0)
    wheel.at(one, 3.0)
    assert wheel.turn(1.3) == [one]
    assert wheel.turn(9.0) == []


def test_who_is_put_back_is_seen_again() -> None:
    wheel, one = Wheel(STEP), cell()
    wheel.at(one, 5.0)
    wheel.at(one, 1.0)
    wheel.turn(1.3)
    wheel.at(one, 6.0)
    assert wheel.turn(5.5) == []  # the first time was given up for the earlier one
    assert wheel.turn(6.3) == [one]


def test_whatever_is_asked_for_comes_within_two_steps_and_after_a_pause() -> None:
    dice = Random(7)
    wheel, asked = Wheel(STEP), [(cell(), dice.uniform(0, 20)) for _ in range(500)]
    for one, moment in asked:
        wheel.at(one, moment)
    now, seen = 0.0, dict[int, float]()
    while now < 25:
        now += 8.0 if 5 < now < 6 else STEP  # the process stood still for a while
        for one in wheel.turn(now):
            seen[id(one)] = now
    for one, moment in asked:
        assert seen[id(one)] >= moment
        assert seen[id(one)] <= moment + 2 * STEP + 1e-9 or 5 < moment < 15


def test_a_time_that_has_passed_is_soon() -> None:
    wheel, one = Wheel(STEP), cell()
    wheel.turn(10.0)
    wheel.at(one, 3.0)
    assert wheel.turn(10.0 + 2 * STEP) == [one]
