from typing import Any

import pytest

from services.health import domain


@pytest.mark.parametrize(
    ("services", "database", "rest", "status"),
    [
        (["ok", "ok"], "ok", ["ok"], "ok"),
        (["ok", "down"], "ok", ["ok"], "degraded"),
        (["ok"], "degraded", [], "degraded"),
        (["ok"], "ok", ["down"], "degraded"),
        (["down", "down"], "degraded", ["degraded"], "down"),
        (["ok"], "down", ["ok"], "down"),
    ],
)
def test_the_whole_is_down_only_when_nothing_can_be_served(
    services: list[domain.Status], database: domain.Status, rest: list[domain.Status], status: domain.Status
) -> None:
    assert domain.whole(services, database, rest)[0] == status


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ({}, "ok"),
        ({"reachable": 0, "unreachable": 2}, "down"),
        ({"reachable": 0, "unreachable": 0}, "degraded"),
        ({"unreachable": 1}, "degraded"),
        ({"latency_ms": 900.0}, "degraded"),
        ({"used": 90}, "degraded"),
        ({"used": 89}, "ok"),
        ({"outdated": ["crm"]}, "degraded"),
    ],
    ids=str,
)
def test_the_database_is_judged_by_what_services_found(found: dict[str, Any], status: domain.Status) -> None:
    well: dict[str, Any] = {
        "reachable": 2, "unreachable": 0, "latency_ms": 1.0, "used": 10, "most": 100, "outdated": []
    }  # fmt: skip
    assert domain.database(**(well | found))[0] == status


@pytest.mark.parametrize(
    ("state", "lag", "parked", "status"),
    [
        ("running", 10, 0, "ok"),
        ("running", None, 0, "ok"),
        ("running", 10_001, 0, "degraded"),
        ("running", 0, 1, "degraded"),
        ("waiting", 0, 0, "degraded"),
        ("stopped", 0, 0, "degraded"),
        ("circuit_open", 0, 3, "down"),
    ],
)
def test_consumers_are_judged_by_state_lag_and_parked_records(
    state: str, lag: int | None, parked: int, status: domain.Status
) -> None:
    assert domain.consumer(state=state, lag=lag, parked_keys=parked, bus_error=None)[0] == status


@pytest.mark.parametrize("wrong", [[], ["The topic is wrong. Remove it."]])
@pytest.mark.parametrize(("cut_off", "status"), [(1, "degraded"), (2, "down")])
def test_a_bus_is_down_when_no_services_events_pass(cut_off: int, wrong: list[str], status: domain.Status) -> None:
    assert domain.bus(workers=2, cut_off=cut_off, wrong=wrong, oldest_unsent_seconds=0)[0] == status


def test_each_is_said_once_what_to_change_on_a_bus() -> None:
    wrong = ["One is wrong. Change it.", "Two is wrong. Change it.", "One is wrong. Change it."]
    _, meaning, action = domain.bus(workers=3, cut_off=3, wrong=wrong, oldest_unsent_seconds=0)
    assert "not as events need it" in meaning
    assert action == "One is wrong. Change it. Two is wrong. Change it."


def test_those_who_wait_for_the_bus_say_so() -> None:
    verdicts = [
        domain.service(answered=True, database_reachable=True, worker_ready=False, bus_error="It is away."),
        *(
            domain.consumer(state=state, lag=None, parked_keys=0, bus_error="It is away.")
            for state in ("running", "waiting", "elsewhere")
        ),
    ]
    for status, meaning, action in verdicts:
        assert (status, action) == ("degraded", "See the bus.")
        assert "for the bus" in meaning


def test_a_failing_task_degrades_its_service() -> None:
    well: dict[str, Any] = {"answered": True, "database_reachable": True, "worker_ready": True, "bus_error": None}
    assert domain.service(**(well | {"worker_ready": False}))[0] == "degraded"
    assert domain.service(**(well | {"database_reachable": None, "worker_ready": None}))[0] == "ok"


def test_whatever_is_not_well_says_what_to_do() -> None:
    verdicts = [
        domain.whole(["down"], "ok", []),
        domain.whole(["ok"], "degraded", []),
        domain.service(answered=False, database_reachable=None, worker_ready=None, bus_error=None),
        domain.bus(workers=0, cut_off=0, wrong=[], oldest_unsent_seconds=0),
        domain.bus(workers=1, cut_off=0, wrong=[], oldest_unsent_seconds=16),
        domain.bus(workers=1, cut_off=0, wrong=[], oldest_unsent_seconds=301),
        domain.bus(workers=2, cut_off=1, wrong=[], oldest_unsent_seconds=0),
        domain.bus(workers=2, cut_off=2, wrong=[], oldest_unsent_seconds=0),
        domain.consumer(state="waiting", lag=0, parked_keys=0, bus_error=None),
    ]
    for status, meaning, action in verdicts:
        assert status != "ok"
        assert meaning.endswith(".")
        assert action
