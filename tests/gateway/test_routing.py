import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing import Route, RoutingTable

TABLE = RoutingTable(
    [
        Route("/v1/contacts", "crm"),
        Route("/v1/audit/events", "audit"),
        Route("/v1/audit/exports", "exports"),
        Route(
            "/v1/auth", "identity", frozenset({("POST", "/v1/auth/sign-in"), ("GET", "/v1/auth/invitations/{token}")})
        ),
        Route("/hooks", "webhooks", frozenset({("POST", "/hooks")})),
    ]
)


@pytest.mark.parametrize(
    "path, service",
    [
        ("/v1/contacts", "crm"),
        ("/v1/contacts/", "crm"),
        ("/v1/contacts/1/notes", "crm"),
        ("/v1/contactsx", None),
        ("/v1/contact", None),
        ("/v1/audit/events/1", "audit"),
        ("/v1/audit/exports", "exports"),
        ("/v1/audit", None),
        ("/v1", None),
        ("/", None),
        ("", None),
        ("//v1/contacts", None),
        ("/V1/contacts", None),
        ("/hooks/a", "webhooks"),
    ],
)
def test_whole_segments_decide(path: str, service: str | None) -> None:
    route = TABLE.match(path)
    assert (route.service if route else None) == service


@given(st.text(alphabet="/v1contads.-", max_size=40))
def test_a_match_always_leads_the_path(path: str) -> None:
    route = TABLE.match(path)
    if route is not None:
        assert path == route.prefix or path.startswith(route.prefix + "/")


@pytest.mark.parametrize(
    "method, path, public",
    [
        ("POST", "/v1/auth/sign-in", True),
        ("GET", "/v1/auth/sign-in", False),
        ("POST", "/v1/auth/sign-in/", False),
        ("GET", "/v1/auth/invitations/abc", True),
        ("HEAD", "/v1/auth/invitations/abc", True),
        ("GET", "/v1/auth/invitations/abc/accept", False),
        ("GET", "/v1/auth/invitations/", False),
        ("POST", "/hooks", True),
        ("GET", "/v1/contacts", False),
    ],
)
def test_public_operations_are_exactly_those_named(method: str, path: str, public: bool) -> None:
    assert TABLE.is_public(method, path) is public


@pytest.mark.parametrize(
    "routes, message",
    [
        ([Route("/v1/a", "a"), Route("/v1/a", "b")], "two routes"),
        ([Route("v1/a", "a")], "not a path prefix"),
        ([Route("/v1/a/", "a")], "not a path prefix"),
        ([Route("/v1/a", "a", frozenset({("GET", "/v1/b")}))], "without a route"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(routes: list[Route], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RoutingTable(routes)
