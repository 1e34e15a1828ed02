from datetime import UTC, date, datetime, timedelta, timezone
from importlib import import_module

import pytest

from cli.system import AUDIT, SERVICES
from services.audit import consumers, domain
from services.audit.service import entry_of
from shared.events import declarations
from shared.ids import new_id
from tests.services.audit.support import make_event

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("action", "level"),
    [
        ("contact.created", "low"),
        ("contact.deleted", "medium"),
        ("api_key.created", "medium"),
        ("signing_key.revoked", "medium"),
        ("member.role_changed", "medium"),
        ("user.sign_in_failed", "medium"),
        ("something.unheard_of", "low"),
    ],
)
def test_risk_depends_on_the_action(action: str, level: str) -> None:
    assert domain.risk_of(action) == level


@pytest.mark.parametrize(
    ("authtype", "actor"),
    [("app_user", "user"), ("api_key", "api_key"), ("service_account", "service"), ("unauthenticated", "anonymous"),
     (None, "system"), ("something_new", "something_new")],
)  # fmt: skip
def test_the_actor_is_read_from_the_envelope(authtype: str | None, actor: str) -> None:
    assert entry_of(make_event(new_id(), authtype=authtype), NOW)["actor_type"] == actor


@pytest.mark.parametrize("changes", ["text", ["a"], {"phone": "+44"}, None])
def test_changes_of_another_form_stay_in_the_data(changes: object) -> None:
    entry = entry_of(make_event(new_id(), data={"changes": changes, "n": 1}), NOW)
    assert entry["changes"] is None
    assert entry["data"] == {"changes": changes, "n": 1}


def test_a_month_is_one_in_utc() -> None:
    assert domain.month_of(datetime(2026, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=2)))) == date(2025, 12, 1)


def test_only_months_that_are_missing_and_near_are_asked_for() -> None:
    days = [datetime(2025, 11, 3, tzinfo=UTC), NOW, datetime(2025, 12, 31, tzinfo=UTC)]
    assert domain.missing_months(days, set(), NOW) == (date(2025, 11, 1), date(2026, 1, 1))
    known = set(domain.months_between(date(2025, 11, 1), date(2026, 1, 1)))
    assert domain.missing_months(days, known, NOW) is None
    assert (
        domain.missing_months([datetime(1980, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)], set(), NOW) is None
    )
    first, last = date(2016, 4, 1), date(2026, 3, 1)
    bounds = [datetime(each.year, each.month, 5, tzinfo=UTC) for each in (first, last)]
    assert domain.missing_months(bounds, set(), NOW) == (first, last)


@pytest.mark.parametrize("service", consumers.SOURCES)
def test_every_published_example_becomes_an_entry(service: str) -> None:
    import_module(f"services.{service}.events")
    declared = declarations(f"services.{service}.")
    assert declared
    for each in declared:
        assert each.example is not None, f"{each.type} has no example"
        payload = each.payload.model_validate(each.example).model_dump(mode="json")
        event = make_event(new_id(), each.type, data=payload, source=f"/guardian/{service}")
        entry = entry_of(event, NOW)
        assert entry["target_type"] == each.entity
        assert entry["source"] == service
        assert {**entry["data"], **({"changes": entry["changes"]} if entry["changes"] is not None else {})} == payload


def test_every_service_that_publishes_is_recorded() -> None:
    publishing = {service.name for service in SERVICES if service.publishes}
    assert set(consumers.SOURCES) == publishing == set(AUDIT.consumes)
