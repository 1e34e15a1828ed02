from typing import Any

import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from cli.system import IDENTITY
from services.identity import events
from services.identity.app import create_app, worker
from services.identity.domain import ALL_SCOPES, ROLES, exceeding, password_problem, touches_ownership
from services.identity.models import metadata
from shared.db import Tenancy
from shared.events import declarations
from shared.settings import Settings


class TestPasswords:
    @pytest.mark.parametrize(
        "password",
        [
            "password1234", "PASSWORD2026!", "P@ssw0rd1234", "qwertyuiop123", "letmeinplease", "aaaaaaaaaaaaaa",
            "abcabcabcabc", "123456789012", "098765432109", "abcdefghijklm", "zyxwvutsrqponml", "qwertyuiopas",
            "administrator", "iloveyouforever!!",
        ],
    )  # fmt: skip
    def test_those_that_are_tried_first(self, password: str) -> None:
        assert password_problem(password)

    @pytest.mark.parametrize(
        "password",
        ["seven-lamps-of-architecture", "xK9#mQ2$vL7!", "correct horse staple battery", "ünïcödé-pässwört"],
    )
    def test_others(self, password: str) -> None:
        assert password_problem(password, "ada@example.com", "Ada Lovelace") is None

    @pytest.mark.parametrize("password", ["countess@example.com", "Countess1843", "Ada Lovelace", "ada lovelace1"])
    def test_ones_own_name(self, password: str) -> None:
        assert password_problem(password, "countess@example.com", "Ada Lovelace")
        assert password_problem(password, "babbage@example.com", "Charles Babbage") is None

    def test_a_short_name_does_not_taint_a_long_password(self) -> None:
        assert password_problem("ada-and-the-engine", "ada@example.com", "Ada") is None


class TestRoles:
    def test_each_is_within_the_one_above(self) -> None:
        assert ROLES["viewer"] < ROLES["member"] < ROLES["admin"] <= ROLES["owner"] == ALL_SCOPES

    def test_a_viewer_changes_nothing(self) -> None:
        assert all(scope.endswith(":read") for scope in ROLES["viewer"])

    def test_members_administer_nothing(self) -> None:
        assert not ROLES["member"] & {"members:write", "invitations:write", "api_keys:write", "organization:write"}

    def test_what_one_cannot_give_away(self) -> None:
        assert exceeding(["a:read", "b:read", "a:read"], frozenset({"a:read"})) == ["b:read"]

    def test_ownership(self) -> None:
        assert touches_ownership("member", "owner")
        assert not touches_ownership("member", "admin")


class TestTheApplication:
    @pytest.fixture
    def document(self, settings: Settings) -> dict[str, Any]:
        return create_app(settings).openapi()

    def operations(self, document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
        return {(m.upper(), path): each for path, item in document["paths"].items() for m, each in item.items()}

    def test_every_operation_says_who_may_call_it(self, document: dict[str, Any]) -> None:
        for operation, each in self.operations(document).items():
            marks = [operation in IDENTITY.public, "x-required-scope" in each, "x-requires-user" in each]
            assert marks.count(True) == 1, operation

    def test_every_scope_it_asks_for_exists(self, document: dict[str, Any]) -> None:
        asked = {each.get("x-required-scope", "contacts:read") for each in self.operations(document).values()}
        assert asked <= ALL_SCOPES

    def test_every_public_operation_exists(self, settings: Settings) -> None:
        app = create_app(settings)
        routes = {(m, r.path) for r in _api_routes(app) for m in r.methods or ()}
        declared = {(method, path.split("{")[0]) for method, path in IDENTITY.public}
        assert declared <= {(method, path.split("{")[0]) for method, path in routes}

    def test_every_route_lies_below_a_declared_prefix(self, settings: Settings) -> None:
        for route in _api_routes(create_app(settings)):
            if route.path not in {"/livez", "/readyz", "/metrics", "/internal/status"}:
                assert any(route.path == p or route.path.startswith(p + "/") for p in IDENTITY.prefixes), route.path

    def test_guarded_operations_document_their_429(self, document: dict[str, Any]) -> None:
        guarded = {op for op, each in self.operations(document).items() if "$ref" not in each["responses"]["429"]}
        anonymous = {op for op in IDENTITY.public if op[1].startswith("/v1/")}
        assert anonymous <= guarded

    def test_the_tables_are_global_but_for_what_is_read_within_an_organisation(self) -> None:
        kinds = {name.partition(".")[2]: table.info["tenancy"] for name, table in metadata.tables.items()}
        assert {kinds.pop("idempotency_keys"), kinds.pop("signing_keys")} == {Tenancy.TENANT}
        assert set(kinds.values()) == {Tenancy.GLOBAL}

    async def test_the_worker_sends_mails_and_relays(self, settings: Settings) -> None:
        made = worker(settings)
        assert made.relay is not None
        assert {"mail", "purge", "nonces"} <= {job.name for job in made._jobs}


def _api_routes(app: Any) -> list[APIRoute]:
    return [each.route for each in iter_route_contexts(app.routes) if isinstance(each.route, APIRoute)]


def test_no_event_has_a_field_for_a_secret() -> None:
    for each in declarations(events.__name__):
        assert each.example is not None, each.type
        assert not {"password", "token", "key", "secret"} & set(each.payload.model_fields), each.type
