"""A gateway that enforces limits: real counters and credentials on a migrated database, an echo for the services."""

import contextlib
import functools
import http
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import http_sf
import pytest
from pydantic import SecretStr

from cli.contracts import merged_document
from gateway.routing import Route
from shared.auth import api_key
from shared.http.rates import LimitProblem
from shared.ids import new_id
from shared.limits.client import Limits
from shared.settings import Settings
from shared.testing.server import TestServer, run

PUBLIC = frozenset({("POST", "/v1/sessions")})
ROUTES = [Route("/v1/contacts", "echo"), Route("/v1/sessions", "echo", public=PUBLIC)]


class Platform:
    """A gateway and what an administrator of the database may do."""

    def __init__(self, front: Any, dsn: str) -> None:
        self.front = front
        self.dsn = dsn

    def sql(self, statement: str, *arguments: Any) -> Any:
        async def work() -> Any:
            connection = await asyncpg.connect(self.dsn)
            try:
                return await connection.fetch(statement, *arguments)
            finally:
                await connection.close()

        return run(work)

    def insert(self, table: str, **values: Any) -> UUID:
        names = ", ".join(f'"{name}"' for name in values)
        slots = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        self.sql(
            f"INSERT INTO {table} ({names}, created_at, updated_at) VALUES ({slots}, now(), now())", *values.values()
        )
        made: UUID = values["id"]
        return made

    def organization(self) -> tuple[UUID, UUID]:
        """A new organisation and its owner."""
        owner, organization = new_id(), new_id()
        self.insert("identity.organizations", id=organization, name="One", data_region="eu", version=1)
        self.insert("identity.users", id=owner, email=f"{owner}@example.org", name="One", password_hash="x",
                    event_sequence=1, version=1)  # fmt: skip
        self.insert("identity.memberships", id=new_id(), organization_id=organization, user_id=owner, role="owner",
                    version=1)  # fmt: skip
        return organization, owner

    def key(self, organization: UUID, owner: UUID) -> tuple[UUID, str]:
        """A new key's id, and its text."""
        made = api_key.generate("live")
        identifier = self.insert(
            "identity.api_keys", id=new_id(), organization_id=organization, public_id=made.public_id,
            secret_sha256=made.sha256, name="key", mode="live", scopes=["contacts:read"], created_by=owner, version=1,
        )  # fmt: skip
        return identifier, made.text

    def policy(self, organization: UUID, name: str, quota: int, **fields: Any) -> UUID:
        """A new policy; of a month, so that no window ends in the middle of a test."""
        values = {"name": name, "quota": quota, "window": "month", "version": 1} | fields
        return self.insert("ratelimit.policies", organization_id=organization, id=new_id(), **values)

    def call(self, key: str, path: str = "/v1/contacts", method: str = "GET") -> Any:
        return self.front.get(path, f"Authorization: Bearer {key}", method=method)


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """One that no busy machine exhausts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.limits.Limits", functools.partial(Limits, patience=10))
        yield


@contextlib.contextmanager
def limited(start: Any, dsn: str, home: Path, plan: str) -> Iterator[Platform]:
    """A platform on a database of its own: a process shares its pools."""
    settings = Settings(environment="test", home=home, database_url=SecretStr(dsn), default_plan=plan)
    with start(settings, routes=ROUTES, limited=True) as front:
        yield Platform(front, dsn)


@pytest.fixture(scope="module")
def platform(
    start: Any, postgres_server: TestServer, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    name = f"limited_{new_id().hex}"
    dsn = postgres_server.create_database(name, template=template)
    with limited(start, dsn, tmp_path_factory.mktemp("limited"), "none") as running:
        yield running
    postgres_server.drop_database(name)


def field(reply: Any, name: str) -> dict[str, dict[str, Any]]:
    """A field's items, by the name of the policy."""
    items: Any = http_sf.parse(reply.headers[name].encode(), tltype="list")
    return dict(items)


def test_no_call_too_many_is_let_through_and_none_too_few(platform: Platform) -> None:
    organization, owner = platform.organization()
    identifier = platform.policy(organization, "monthly", 5)
    _, key = platform.key(organization, owner)
    replies = [platform.call(key) for _ in range(8)]
    assert [each.status for each in replies] == [200] * 5 + [429] * 3
    assert [field(each, "ratelimit")["monthly"]["r"] for each in replies] == [4, 3, 2, 1, 0, 0, 0, 0]
    for reply in replies:
        assert field(reply, "ratelimit-policy") == {"monthly": {"q": 5, "w": 30 * 86_400}}
    refused = replies[-1]
    assert refused.code == "quota_exceeded"
    assert int(refused.headers["retry-after"]) >= field(refused, "ratelimit")["monthly"]["t"] > 0
    shown = LimitProblem.model_validate(refused.json)
    assert shown.violated_policies == ["monthly"]
    assert shown.receipt is not None
    (entry,) = shown.receipt.policies
    assert (entry.policy_id, entry.subject, entry.cost, entry.refused) == (identifier, "organization", 1, True)
    assert "'monthly' of your organisation allows 5 units a month" in (shown.detail or "")
    assert str(organization) not in refused.body.decode()


def test_weighted_calls_cost_what_the_contract_says(platform: Platform) -> None:
    organization, owner = platform.organization()
    platform.policy(organization, "weighted", 25)
    platform.policy(organization, "counted", 25, weighted=False)
    _, key = platform.key(organization, owner)
    assert platform.call(key, "/v1/contacts/bulk", "POST").status == 200
    cost = merged_document()["paths"]["/v1/contacts/bulk"]["post"]["x-rate-limit"]["cost"]
    state = field(platform.call(key), "ratelimit")
    assert state["weighted"]["r"] == 25 - cost - 1
    assert state["counted"]["r"] == 23


def test_a_key_has_a_limit_of_its_own(platform: Platform) -> None:
    organization, owner = platform.organization()
    platform.policy(organization, "per-key", 2, per=["key"])
    (_, one), (_, two) = platform.key(organization, owner), platform.key(organization, owner)
    assert [platform.call(one).status for _ in range(3)] == [200, 200, 429]
    fresh = platform.call(two)
    assert fresh.status == 200
    partitions = [field(platform.call(key), "ratelimit-policy")["per-key"]["pk"] for key in (one, two)]
    assert len(set(partitions)) == 2


def test_looking_for_what_is_not_there_costs_too(platform: Platform) -> None:
    organization, owner = platform.organization()
    platform.policy(organization, "probing", 2, routes=["GET /v1/contacts/*"], per=["route"])
    _, key = platform.key(organization, owner)
    paths = ["/v1/contacts/a/b", "/v1/contacts/c/d/e", "/v1/contacts/f/g"]
    assert [platform.call(key, path).status for path in paths] == [200, 200, 429]
    assert platform.call(key, "/v1/contacts").status == 200, "another route"


def test_a_raised_limit_counts_at_once(platform: Platform, eventually: Callable[..., None]) -> None:
    organization, owner = platform.organization()
    identifier = platform.policy(organization, "raised", 1)
    _, key = platform.key(organization, owner)
    assert [platform.call(key).status for _ in range(2)] == [200, 429]
    platform.sql("UPDATE ratelimit.policies SET quota = 1000, version = 2 WHERE id = $1", identifier)
    eventually(lambda: platform.call(key).status == 200, "the higher limit")


def test_what_is_only_watched_refuses_nothing_and_is_not_told(platform: Platform) -> None:
    organization, owner = platform.organization()
    platform.policy(organization, "watched", 1, shadow=True)
    _, key = platform.key(organization, owner)
    replies = [platform.call(key) for _ in range(4)]
    assert {each.status for each in replies} == {200}
    assert not any("ratelimit" in each.headers for each in replies)


def test_calls_at_the_same_time(platform: Platform, raw: Any, eventually: Callable[..., None]) -> None:
    organization, owner = platform.organization()
    platform.policy(organization, "at-once", 1, unit="concurrent-requests", window=None)
    _, key = platform.key(organization, owner)
    platform.front.echo.entered.clear()
    client = platform.front.connect()
    client.sendall(raw("/v1/contacts?do=hang", f"Authorization: Bearer {key}"))
    eventually(platform.front.echo.entered.is_set)
    refused = platform.call(key)
    assert refused.status == http.HTTPStatus.TOO_MANY_REQUESTS
    assert field(refused, "ratelimit-policy") == {"at-once": {"q": 1, "qu": "concurrent-requests"}}
    assert field(refused, "ratelimit") == {"at-once": {"r": 0}}
    assert int(refused.headers["retry-after"]) >= 1
    client.close()
    eventually(lambda: platform.call(key).status == 200, "the place of a client that left")
    for action in ("raise", "abort", "cut", "nothing", ""):
        platform.call(key, f"/v1/contacts?do={action}")
        eventually(lambda: platform.call(key).status == 200, f"the place after {action}")


def test_signing_in_needs_no_organisation_and_has_no_limit_here(platform: Platform) -> None:
    reply = platform.front.get("/v1/sessions", method="POST")
    assert reply.status == 200
    assert "ratelimit" not in reply.headers


def test_usage_is_written_down(platform: Platform, eventually: Callable[..., None]) -> None:
    organization, owner = platform.organization()
    platform.policy(organization, "monthly", 2)
    identifier, key = platform.key(organization, owner)
    for _ in range(3):
        platform.call(key, "/v1/contacts/0199c0de-0000-7000-8000-000000000000")
    query = (
        "SELECT actor_type, actor_id, route, class, user_id, sum(calls)::int AS calls, sum(refused)::int AS refused "
        "FROM ratelimit.usage_minutes WHERE organization_id = $1 GROUP BY 1, 2, 3, 4, 5"
    )
    eventually(lambda: sum(row["calls"] for row in platform.sql(query, organization)) == 3, "the usage")
    (row,) = platform.sql(query, organization)
    assert tuple(row) == ("api_key", str(identifier), "GET /v1/contacts/{contact_id}", "read", str(owner), 3, 1)


def test_figures_tell_what_was_refused(platform: Platform) -> None:
    organization, owner = platform.organization()
    platform.policy(organization, "none-at-all", 0)
    _, key = platform.key(organization, owner)
    before = _figure(platform, 'guardian_gateway_refused_total{policy="own"}')
    assert platform.call(key).status == 429
    assert _figure(platform, 'guardian_gateway_refused_total{policy="own"}') == before + 1
    assert _figure(platform, "guardian_gateway_limit_calls") > 0
    assert _figure(platform, "guardian_gateway_limits_held") > 0
    assert _figure(platform, "guardian_gateway_limit_alone") == 0


def _figure(platform: Platform, sample: str) -> float:
    lines = platform.front.get("/metrics").body.decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{sample} "))


def test_without_a_database_it_starts(start: Any, offline_settings: Any) -> None:
    with start(offline_settings, limited=True) as front:
        assert front.get("/v1/echo").status == 200, "public, and nobody's call"
        assert front.get("/readyz").status == 200


def test_organisations_that_were_given_no_plan_are_on_the_default_one(
    start: Any, fresh_database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with limited(start, fresh_database, tmp_path, "pro") as platform:
        _, key = platform.key(*platform.organization())
        assert set(field(platform.call(key), "ratelimit")) == {"burst", "minute", "month", "concurrent"}
        platform.front.call(platform.front.gateway._parts.metering._look_at_the_plan)
    assert "GUARDIAN_DEFAULT_PLAN" not in caplog.text


def test_a_mistyped_plan_is_said(
    start: Any, fresh_database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with limited(start, fresh_database, tmp_path, "enterprize") as platform:
        platform.front.call(platform.front.gateway._parts.metering._look_at_the_plan)
    assert "GUARDIAN_DEFAULT_PLAN is 'enterprize'" in caplog.text
