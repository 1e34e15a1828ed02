from collections import deque
from uuid import UUID

import asyncpg
import pytest
from asyncpg.exceptions._base import DataError as _DataError
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ServiceUnavailable
from shared.events.failures import Backoff, Circuit, CircuitOpen, Retry, is_outage, is_passing
from shared.ids import NIL, new_id


def caused(cause: BaseException | None) -> ServiceUnavailable:
    error = ServiceUnavailable("away")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        asyncpg.ConnectionDoesNotExistError("gone"),
        asyncpg.AdminShutdownError("stopping"),
        asyncpg.TooManyConnectionsError("full"),
        asyncpg.InterfaceError("connection is closed"),
        caused(OSError()),
        caused(TimeoutError()),
        caused(asyncpg.InternalClientError("unexpected")),
        ExceptionGroup("both", [ValueError(), ConnectionResetError()]),
    ],
)
def test_a_database_that_is_away_is_nobodys_fault(error: Exception) -> None:
    assert is_outage(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        FileNotFoundError(),
        asyncpg.InterfaceError("wrong argument"),
        _DataError("invalid input for query argument $3: 'close the deal'"),
        caused(None),
        asyncpg.UniqueViolationError("twice"),
    ],
)
def test_other_errors_are_the_events(error: Exception) -> None:
    assert not is_outage(error)


def test_what_may_pass() -> None:
    assert is_passing(Retry())
    assert is_passing(asyncpg.DeadlockDetectedError("again"))
    assert is_passing(caused(None))
    assert not is_passing(ZeroDivisionError())


@given(st.integers(0, 60), st.sampled_from([0.0, 0.5]))
def test_delays_grow_to_a_limit_and_start_again(attempts: int, least: float) -> None:
    backoff = Backoff(0.1, 5.0, least=least)
    delays = [backoff.next() for _ in range(attempts + 1)]
    for n, delay in enumerate(delays):
        step = min(5.0, 0.1 * 2**n)
        assert step * least <= delay <= step
    backoff.reset()
    assert backoff.next() <= 0.1


def test_the_jitter_of_a_retry_is_full() -> None:
    delays = [Backoff(1.0, 1.0).next() for _ in range(400)]
    assert min(delays) < 0.1
    assert max(delays) > 0.9


@given(st.lists(st.booleans(), max_size=200))
def test_the_circuit_opens_only_when_most_of_the_latest_fail(outcomes: list[bool]) -> None:
    circuit = Circuit(failures=5, window=20)
    window: list[bool] = []
    for good in outcomes:
        window = [*window, good][-20:]
        most = window.count(False) >= 5 and window.count(False) * 2 > len(window)
        if good:
            circuit.succeeded()
        elif most:
            with pytest.raises(CircuitOpen):
                circuit.failed()
            return
        else:
            circuit.failed()
        assert circuit.state == "closed"


def open_circuit(circuit: Circuit, *organizations: UUID, passing: bool = False) -> int:
    """Fail in turns until everybody is refused; how many events became dead letters."""
    dead = 0
    waiting = deque(organizations)
    while waiting:
        try:
            circuit.failed(waiting[0], passing=passing)
        except CircuitOpen:
            waiting.popleft()
        else:
            dead += 1
            waiting.rotate(-1)
    return dead


def test_a_probe_lets_one_event_fail_and_one_success_closes_the_circuit() -> None:
    circuit = Circuit(failures=2, pause=1.0)
    assert open_circuit(circuit, NIL) == 1
    assert 0.5 <= circuit.probe() <= 1.0
    assert open_circuit(circuit, NIL) == 1
    assert 1.0 <= circuit.probe() <= 2.0
    circuit.succeeded()
    assert circuit.state == "closed"
    circuit.failed()


def test_one_organisation_whose_events_all_fail_stops_nobody_else() -> None:
    circuit, healthy, harmful = Circuit(), new_id(), new_id()
    circuit.succeeded(3, healthy)
    for _ in range(10_000):
        circuit.failed(harmful)
    assert circuit.state == "closed"


def test_a_common_fault_opens_the_circuit_whatever_went_well_before() -> None:
    circuit, organizations = Circuit(), [new_id() for _ in range(30)]
    for each in organizations:
        circuit.succeeded(100, each)
    assert open_circuit(circuit, *organizations) < 30


def test_where_most_organisations_fail_every_probe_lets_one_event_fail() -> None:
    circuit, organizations = Circuit(), [new_id() for _ in range(5)]
    open_circuit(circuit, *organizations)
    for _ in range(20):
        circuit.probe()
        assert open_circuit(circuit, *organizations) == 1


def test_a_flood_of_one_organisation_alone_is_let_through_in_growing_steps() -> None:
    circuit, harmful = Circuit(pause=0.01), new_id()
    steps = [open_circuit(circuit, harmful)]
    for _ in range(6):
        circuit.probe()
        steps.append(open_circuit(circuit, harmful))
    assert steps == [9, 1, 1, 8, 64, 512, 4096]
    # What may pass is never let through: waiting may help.
    patient = Circuit(pause=0.01)
    steps = [open_circuit(patient, harmful, passing=True)]
    for _ in range(6):
        patient.probe()
        steps.append(open_circuit(patient, harmful, passing=True))
    assert steps == [9, 1, 1, 1, 1, 1, 1]


def test_what_others_did_is_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("shared.events.failures.time.monotonic", lambda: now)
    circuit, healthy, failing = Circuit(), new_id(), new_id()
    circuit.succeeded(3, healthy)
    for _ in range(40):
        circuit.failed(failing)
    now += Circuit.SECONDS + 1
    with pytest.raises(CircuitOpen):
        circuit.failed(failing)
