"""Whether what a fault run was told by the limiter hangs together: nothing beyond a quota, nothing less without a reason.

A window is judged by the units that were debited in it (``Call.window_end``), however late they were spent. It is
*touched* when a process or the database was disturbed, or the machine was late, while it mattered; then it may admit
less than its quota, never more.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from tests.chaos.limiter_history import (
    AFTER_SECONDS,
    KINDS,
    Disturbance,
    Findings,
    History,
    Violation,
    What,
    Window,
    windows_of,
)
from tests.chaos.limiter_load import PROCESSES, TENANTS, Call, Limit

CHANGE_SECONDS = 1.0
WAIT_SECONDS = 0.060
RECOVERY_SECONDS, NEVER_SECONDS = 2.0, 1_000.0
SLOTS_KEPT_SECONDS = 4.0
"""Slots end ten seconds after they were stated, and are stated again after five: a holder that is silent for longer
than this may lose them, and what it runs counts no more."""
_OVERLOADED = 1.3
_LEASE_ENDS_SECONDS = 12.0
_OUTAGE_SECONDS = 10.0
_LOWEST_LEASE, _LOW_SHARE = 8, 0.3
_TASKS = max(tenant.tasks for tenant in TENANTS)


def check(history: History) -> Findings:
    """Judge a run."""
    found = Findings()
    windows = windows_of(history)
    found.windows = len(windows)
    for window in windows.values():
        found.violations += _overshoot(history, window)
        _exactness(history, window, found)
        found.violations += _obedience(history, window)
    found.violations += _accounts(history, windows)
    found.violations += _concurrency(history)
    found.violations += _failure_modes(history, windows)
    _waits(history, found)
    found.recoveries = list(_recoveries(history))
    return found


# Windows.


def _quotas(history: History, limit: Limit, first: float, last: float) -> list[int]:
    """The quotas in force at some moment between two, in order."""
    changes = sorted((each for each in history.changes if each.limit == limit.name), key=lambda each: each.before)
    until = [*(each.after for each in changes[:]), math.inf]
    since = [-math.inf, *(each.before for each in changes)]
    quotas = [limit.quota, *(each.quota for each in changes)]
    return [quota for quota, a, b in zip(quotas, since, until, strict=True) if a <= last and first <= b]


def _overshoot(history: History, window: Window) -> Iterator[Violation]:
    limit = window.limit
    if limit.on_failure != "closed":
        return
    quota = max(_quotas(history, limit, window.starts - CHANGE_SECONDS, window.ends))
    bound = quota if limit.mode != "fast" else math.floor(quota * limit.most) + PROCESSES
    if window.admitted > bound:
        yield Violation("overshoot", f"{window}: {window.admitted} admitted of {bound}", window.admitted - bound)


def _exactness(history: History, window: Window, found: Findings) -> None:
    limit = window.limit
    quotas = _quotas(history, limit, window.starts - CHANGE_SECONDS, window.ends)
    whole = history.began + AFTER_SECONDS <= window.first and window.last <= history.ended - 0.1
    whole = whole or (limit.seconds > 1 and window.last <= history.ended)
    if not limit.exact or len(quotas) > 1 or not whole:
        return
    if window.admitted + window.refused < _OVERLOADED * quotas[0]:
        return
    # A unit or two may be left that no call was small enough for.
    dearest = max(call.cost for call in window.calls)
    lacking = quotas[0] - (dearest - 1) - window.admitted
    touching = [each for each in history.disturbances if each.touches(window.first, window.last)]
    if not touching:
        found.overloaded += 1
        if lacking > 0 and (window.fell_back or _late(history, window)):
            found.excused += 1
        elif lacking > 0:
            text = f"{window}: {window.admitted} admitted of {quotas[0]}, {window.refused} refused"
            found.violations.append(Violation("inexact", text, lacking))
    elif all(each.kind == "kill" for each in touching) and not window.fell_back:
        found.waste_judged += 1
        bound = sum(_lease_bound(history, window, each) for each in touching)
        if lacking > bound:
            text = f"{window}: {lacking} units lost with {len(touching)} processes, {bound} are theirs to lose"
            found.violations.append(Violation("waste", text, lacking - bound))


def _late(history: History, window: Window) -> bool:
    return any(
        call.kind == "lag" and call.at - call.waited <= window.last and window.first <= call.at
        for call in history.calls
    )


def _lease_bound(history: History, window: Window, killed: Disturbance) -> int:
    """What a process may hold: a lease, what was left of it when the next was asked for, a call for each task."""
    before = [
        call.at
        for call in window.calls
        if call.process == killed.process and call.kind == "admitted" and call.at <= killed.began + 0.1
    ]
    busiest = max(Counter(int(at / 0.25) for at in before).values(), default=0)
    cost = max(call.cost for call in window.calls)
    lease = max(_LOWEST_LEASE, busiest * cost, window.limit.quota // (2 * PROCESSES))
    return math.ceil(lease * (1 + _LOW_SHARE)) + _TASKS * cost


def _obedience(history: History, window: Window) -> Iterator[Violation]:
    """A second after a quota was lowered nothing passes that is beyond the new one."""
    if not window.limit.exact:
        return
    for change in history.changes:
        obeyed = change.after + CHANGE_SECONDS
        if change.limit != window.limit.name or not window.starts <= obeyed < window.ends:
            continue
        if any(each.touches(change.before, obeyed + 1.0) for each in history.disturbances):
            continue  # who is cut off spends what is debited already
        if _quotas(history, window.limit, change.before, window.ends)[-1] != change.quota:
            continue  # it was changed again
        sums = [(call.at - call.waited, call.cost) for call in window.calls if call.kind == "admitted"]
        by_then = sum(cost for begun, cost in sums if begun <= obeyed)
        too_many = sum(cost for _, cost in sums) - max(by_then, change.quota)
        if too_many > 0:
            yield Violation("slow-change", f"{window}: {too_many} beyond {change.quota} after a second", too_many)


# What the database says.


def _accounts(history: History, windows: Mapping[tuple[str, int, float], Window]) -> Iterator[Violation]:
    rows = {(row.limit, row.key, row.starts): row for row in history.rows}
    for name, row in rows.items():
        limit = history.limits[row.limit]
        if limit.exact and row.used > row.highest_quota:
            yield Violation("unaccounted", f"{name}: {row.used} debited of {row.highest_quota}")
        if row.used < row.admitted:
            yield Violation("unaccounted", f"{name}: {row.used} debited, {row.admitted} admitted")
    if not history.rows:
        return
    for name, window in windows.items():
        touched = any(each.touches(window.first, window.last) for each in history.disturbances)
        if not window.limit.exact or touched or window.fell_back:
            continue
        told = rows[name].admitted if name in rows else 0
        if told != window.admitted:
            yield Violation("unaccounted", f"{window}: {window.admitted} admitted, the database was told of {told}")


# Calls at the same time.


def _concurrency(history: History) -> Iterator[Violation]:
    for limit in history.limits.values():
        if limit.seconds == 0:
            steps = sorted(_steps(history, limit))
            running = most = 0
            at = 0.0
            for moment, step in steps:
                running += step
                if running > most:
                    most, at = running, moment
            if most > limit.quota:
                text = f"{limit.name}: {most} at +{at:.3f} s, {limit.quota} may be"
                yield Violation("concurrency", text, most - limit.quota)


def _steps(history: History, limit: Limit) -> Iterator[tuple[float, int]]:
    ended = {(life.process, life.generation): life.ended for life in history.lives}
    running: dict[tuple[int, int], list[float]] = defaultdict(list)
    for call in history.calls:
        if call.limit != limit.name:
            continue
        process = (call.process, call.generation)
        if call.kind == "admitted":
            running[process].append(call.at)
        elif call.kind == "ended" and running[process]:
            # Which of them ended matters to nobody, except that the oldest is counted longest.
            begun = running[process].pop()
            yield from _step(history, call.process, begun, call.at)
    for process, left in running.items():
        for begun in left:
            yield from _step(history, process[0], begun, ended.get(process, history.ended))


def _step(history: History, process: int, begun: float, ended: float) -> Iterator[tuple[float, int]]:
    """A call counts until its holder had been silent for too long."""
    for each in history.disturbances:
        lost = each.began + SLOTS_KEPT_SECONDS
        heard = each.ended + CHANGE_SECONDS
        if each.process in (None, process) and each.kind != "kill" and max(lost, begun) < heard:
            ended = min(ended, max(lost, begun))
    if ended > begun:
        yield begun, 1
        yield ended, -1


# While the database is away.


def _outages(history: History) -> list[Disturbance]:
    return [each for each in history.disturbances if each.process is None and each.ended - each.began > _OUTAGE_SECONDS]


def _failure_modes(history: History, windows: Mapping[tuple[str, int, float], Window]) -> Iterator[Violation]:
    outages = _outages(history)
    for call in history.calls:
        limit = history.limits[call.limit]
        for outage in outages:
            if outage.began + CHANGE_SECONDS < call.at - call.waited and call.at < outage.ended:
                yield from _in_outage(history, call, limit, outage)
    for window in windows.values():
        if window.limit.on_failure == "share" and window.admitted > 1.5 * window.limit.quota:
            yield Violation("failure-mode", f"{window}: {window.admitted} is more than a share of {window.limit.quota}")
    for limit in history.limits.values():
        fell_back = [each for each in history.calls if each.limit == limit.name and each.source == "fallback"]
        if outages and limit.on_failure != "closed" and not any(each.kind == "admitted" for each in fell_back):
            yield Violation("failure-mode", f"{limit.name}: nothing passed while the database was away")


def _in_outage(history: History, call: Call, limit: Limit, outage: Disturbance) -> Iterator[Violation]:
    restarted = any(
        life.process == call.process and life.killed and outage.began < life.ended + AFTER_SECONDS < outage.ended
        for life in history.lives
    )
    late = call.at > outage.began + _LEASE_ENDS_SECONDS
    if limit.on_failure == "open" and call.kind != "admitted" and not restarted:
        yield Violation("failure-mode", f"{limit.name} is open and refused at +{call.at:.3f} s")
    if limit.on_failure == "share" and call.kind == "unavailable" and not restarted:
        yield Violation("failure-mode", f"{limit.name} shares and was unavailable at +{call.at:.3f} s")
    if limit.on_failure == "closed" and limit.mode != "fast" and call.kind == "admitted" and late:
        yield Violation("failure-mode", f"{limit.name} passed without the database at +{call.at:.3f} s")


def _waits(history: History, found: Findings) -> None:
    """How long calls waited while their process could not reach the database; not in one that did not run itself."""
    away = [each for each in history.disturbances if each.kind in {"crash", "freeze", "gone", "partition"}]
    paused = [each for each in history.disturbances if each.kind == "pause"]
    for call in history.calls:
        if call.kind in {"lag", "ended"}:
            continue
        begun = call.at - call.waited
        if not any(each.process in (None, call.process) and each.began <= call.at <= each.ended for each in away):
            continue
        if any(each.process == call.process and each.began <= call.at and begun <= each.ended + 0.5 for each in paused):
            continue
        net = max(call.waited - call.lag, 0.0)
        found.waits += 1
        found.longest_wait_raw = max(found.longest_wait_raw, call.waited)
        found.longest_wait = max(found.longest_wait, net)
        if net > WAIT_SECONDS:
            text = f"{call.limit} waited {net * 1000:.0f} ms in process {call.process} at +{call.at:.3f} s"
            found.violations.append(Violation("wait", text, net * 1000))


def _recoveries(history: History) -> Iterator[float]:
    """For each process, how long after an outage it decided with the database again."""
    for outage in _outages(history):
        answers: dict[int, float] = {}
        for call in history.calls:
            if call.limit == "open" and call.at > outage.ended and call.source in {"lease", "database"}:
                answers.setdefault(call.process, call.at - outage.ended)
        for process in range(PROCESSES):
            disturbed = any(
                each is not outage and each.process in (None, process)
                and each.touches(outage.ended, outage.ended + RECOVERY_SECONDS)
                for each in history.disturbances
            )  # fmt: skip
            if not disturbed:
                yield answers.get(process, NEVER_SECONDS)


def counted(violations: Iterable[Violation]) -> dict[What, int]:
    """How many of each kind."""
    found = Counter(violation.kind for violation in violations)
    return {kind: found[kind] for kind in KINDS}
