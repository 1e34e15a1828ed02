"""Whether what clients of the gateway were told hangs together, and with what is in the database."""

from collections import Counter
from collections.abc import Iterable, Iterator

from tests.chaos.gateway_history import KINDS, Attempt, Findings, History, Look, Operation, Purpose, Violation, What

_AWAY = frozenset(
    {
        (503, "service_unavailable"), (503, "upstream_unavailable"), (503, "overloaded"), (503, "limiter_unavailable"),
        (502, "bad_gateway"), (504, "upstream_timeout"),
    }
)  # fmt: skip
"""What anybody may be told while something is broken."""
_BESIDES: dict[Purpose, frozenset[tuple[int, str]]] = {
    "keyed": frozenset({(409, "idempotency_in_progress")}),
    "once": frozenset(),
    "read": frozenset(),
    "changed": frozenset({(401, "signature_digest")}),
}
_REPLAYED = (401, "signature_replayed")
ALLOWANCE, SHARE = 20, 0.1
_FINAL = range(400, 500)
_NOT_FINAL = (408, 409, 425, 429)


def is_final(status: int) -> bool:
    """Whether a client gives up at an answer with this status."""
    return status in _FINAL and status not in _NOT_FINAL


def check(history: History) -> Findings:
    """Judge a run."""
    found = Findings()
    for operation in history.operations:
        rows = history.rows.get(operation.name, 0)
        found.violations += _effects(operation, rows)
        for attempt in operation.attempts:
            found.violations += _answer(operation, attempt)
            found.replays += attempt.replay and attempt.outcome == "answer"
            found.marked += attempt.marked
            found.broken += attempt.outcome == "broken"
            if not attempt.acknowledged and not attempt.replay:
                found.told[f"{attempt.status} {attempt.code}" if attempt.outcome == "answer" else attempt.outcome] += 1
        if operation.purpose == "keyed":
            found.violations += _same_answers(operation)
        found.acknowledged += operation.acknowledged
    known = {operation.name for operation in history.operations}
    for name in history.rows.keys() - known:
        found.violations.append(Violation("phantom", f"{name} is there, and nobody asked for it"))
    found.violations += _retries(history.looks)
    found.retries = _spent(history.looks)
    return found


def _effects(operation: Operation, rows: int) -> Iterator[Violation]:
    """What is there, beside what was said about it."""
    name, accepted = operation.name, [each for each in operation.attempts if each.acknowledged]
    if operation.purpose == "changed":
        if rows or accepted:
            yield Violation("executed", f"{name}: {rows} rows of content that nobody signed")
        return
    if operation.purpose == "read":
        return
    if rows > 1:
        yield Violation("doubled", f"{name} ({operation.purpose}) is there {rows} times")
    if accepted and rows == 0:
        yield Violation("lost", f"{name} ({operation.purpose}) was acknowledged and is not there")
    # Which of several was first cannot be known from outside: what never arrived is no first one.
    if operation.purpose == "once" and len(accepted) > 1:
        yield Violation("replayed", f"{name}: its signature was accepted {len(accepted)} times")
    last = operation.attempts[-1:]
    refused = operation.purpose == "keyed" and not accepted and last and is_final(last[0].status)
    if rows and refused:
        yield Violation("phantom", f"{name} is there and was answered {last[0].status} {last[0].code}")


def _same_answers(operation: Operation) -> Iterator[Violation]:
    accepted = [each for each in operation.attempts if each.acknowledged]
    if len({(each.status, each.answer) for each in accepted}) > 1:
        yield Violation("different", f"{operation.name}: {len(accepted)} answers that are not the same")
    unmarked = sum(not each.marked for each in accepted)
    # None is well: the gateway may have sent it again itself, and passed on what came to that.
    if unmarked > 1:
        yield Violation("unmarked", f"{operation.name}: {unmarked} answers pretend to be the first")


def _answer(operation: Operation, attempt: Attempt) -> Iterator[Violation]:
    """Each answer by itself."""
    if attempt.outcome != "answer":
        return
    text = f"{operation.name} ({operation.purpose}): {attempt.status} {attempt.code} from gateway {attempt.gateway}"
    if attempt.status == 500:
        yield Violation("server-error", text)
        return
    if 200 <= attempt.status < 300:
        if not attempt.sound:
            yield Violation("torn", f"{text}, whole for the client, and its content is not")
        return
    if attempt.code == "?" or not attempt.sound:
        yield Violation("malformed", text)
    elif not _is_expected(operation, attempt):
        yield Violation("unexpected", text)
    if attempt.status == 503 and not (attempt.retry_after.isdigit() and int(attempt.retry_after) > 0):
        yield Violation("no-retry-after", text)


def _is_expected(operation: Operation, attempt: Attempt) -> bool:
    said = (attempt.status, attempt.code)
    if said in _AWAY or said in _BESIDES[operation.purpose]:
        return True
    return said == _REPLAYED and attempt.replay and operation.purpose != "keyed"


def _retries(looks: Iterable[Look]) -> Iterator[Violation]:
    for look in looks:
        most = ALLOWANCE + SHARE * look.requests
        if look.retries > most:
            yield Violation(
                "retries", f"{look.gateway} tried {look.retries:g} of {look.requests:g} calls to {look.service}"
            )


def _spent(looks: Iterable[Look]) -> int:
    most: dict[tuple[str, str], float] = {}
    for look in looks:
        key = (look.gateway, look.service)
        most[key] = max(most.get(key, 0), look.retries)
    return int(sum(most.values()))


def counted(violations: Iterable[Violation]) -> dict[What, int]:
    """How many of each kind."""
    found = Counter(violation.kind for violation in violations)
    return {kind: found[kind] for kind in KINDS}
