import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ServiceUnavailable
from shared.events.failures import Backoff, Circuit, CircuitOpen, Retry, is_outage, is_passing


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


@given(st.integers(0, 60))
def test_delays_grow_to_a_limit_and_start_again(attempts: int) -> None:
    backoff = Backoff(0.1, 5.0)
    delays = [backoff.next() for _ in range(attempts + 1)]
    for n, delay in enumerate(delays):
        step = min(5.0, 0.1 * 2**n)
        assert step / 2 <= delay <= step
    backoff.reset()
    assert backoff.next() <= 0.1


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


def test_a_probe_lets_one_event_fail_and_one_success_closes_the_circuit() -> None:
    circuit = Circuit(failures=2, pause=1.0)
    circuit.failed()
    with pytest.raises(CircuitOpen):
        circuit.failed()
    assert 0.5 <= circuit.probe() <= 1.0
    circuit.failed()
    with pytest.raises(CircuitOpen):
        circuit.failed()
    assert 1.0 <= circuit.probe() <= 2.0
    circuit.succeeded()
    assert circuit.state == "closed"
    circuit.failed()
