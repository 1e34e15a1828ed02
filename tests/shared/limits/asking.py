"""Calls, one after the other."""

from collections.abc import Sequence

from shared.limits.client import Limits
from shared.limits.decision import Decision
from shared.limits.policies import Caller, Operation
from tests.shared.limits.conftest import LIST


async def ask(limits: Limits, caller: Caller, times: int, operation: Operation = LIST) -> list[Decision]:
    return [await limits.check(caller, operation) for _ in range(times)]


def admitted(decisions: Sequence[Decision]) -> int:
    return sum(each.allowed for each in decisions)
