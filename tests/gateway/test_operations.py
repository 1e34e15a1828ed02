"""Finding a request's operation: against regular expressions over the whole contract, and what the contract lacks."""

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cli.contracts import merged_document, operations
from cli.hosting import routes
from gateway.operations import Operations
from gateway.routing import Route, RoutingTable
from shared.limits.policies import Operation

DOCUMENT = merged_document()
ROUTES = routes()
TABLE = RoutingTable(ROUTES)
FOUND = Operations(DOCUMENT, ROUTES)
DECLARED = [
    Operation(method.upper(), path, each["x-rate-limit"]["cost"], each["x-rate-limit"]["class"])
    for path, method, each in operations(DOCUMENT)
]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
NAMES = sorted({segment for each in DECLARED for segment in each.path.split("/") if "{" not in segment})
SEGMENTS = st.one_of(
    st.sampled_from(NAMES), st.uuids().map(str), st.text(st.characters(exclude_characters="/"), max_size=9)
)


@st.composite
def paths(draw: st.DrawFn) -> str:
    """A path of the contract with anything for its parameters, or one that merely looks like it."""
    declared = draw(st.sampled_from(DECLARED)).path.split("/")
    parts = [draw(SEGMENTS) if "{" in part or not draw(st.integers(0, 19)) else part for part in declared]
    more = draw(st.sampled_from([[], [], [], [""], ["x"]]))
    return "/".join([*parts, *more])


def oracle(method: str, path: str) -> Operation | None:
    """The slow way: every template as a regular expression, names before parameters from left to right."""
    method = "GET" if method == "HEAD" else method
    fitting = [
        each
        for each in DECLARED
        if each.method == method and re.fullmatch(re.sub(r"\\\{.*?\\\}", "[^/]+", re.escape(each.path)), path)
    ]
    return min(fitting, key=lambda each: ["{" in part for part in each.path.split("/")], default=None)


@given(st.sampled_from(METHODS), paths())
@example("GET", "/v1/sessions/current")
@example("DELETE", "/v1/sessions/current")
@example("GET", "/v1/contacts/")
@example("GET", "/v1/contacts/bulk")
def test_it_finds_what_regular_expressions_find(method: str, path: str) -> None:
    route = TABLE.match(path)
    if route is None:
        return
    expected = oracle(method, path)
    found = FOUND.find(method, path, route.prefix)
    if expected is None:
        assert found.path == f"{route.prefix}/*"
        assert found.method == ("GET" if method == "HEAD" else method)
    else:
        assert found == expected


@pytest.mark.parametrize("declared", DECLARED, ids=lambda each: each.name)
def test_every_operation_is_found_by_its_own_path(declared: Operation) -> None:
    path = re.sub(r"\{.*?\}", "0199c0de-0000-7000-8000-000000000000", declared.path)
    route = TABLE.match(path)
    assert route is not None
    assert FOUND.find(declared.method, path, route.prefix) == declared


def test_the_same_operation_is_the_same_object() -> None:
    one = FOUND.find("GET", "/v1/contacts/1", "/v1/contacts")
    assert one is FOUND.find("HEAD", "/v1/contacts/2", "/v1/contacts")
    assert FOUND.find("GET", "/v1/contacts/1/x", "/v1/contacts") is FOUND.find("GET", "/v1/contacts/", "/v1/contacts")


@pytest.mark.parametrize(
    ("method", "path", "name", "route_class"),
    [
        ("GET", "/v1/contacts/a/b", "GET /v1/contacts/*", "read"),
        ("HEAD", "/v1/contacts//", "GET /v1/contacts/*", "read"),
        ("PUT", "/v1/contacts", "PUT /v1/contacts/*", "write"),
        ("OPTIONS", "/v1/contacts", "OTHER /v1/contacts/*", "write"),
        ("PROPFIND", "/v1/contacts/1", "OTHER /v1/contacts/*", "write"),
    ],
)
def test_what_the_contract_lacks_costs_too(method: str, path: str, name: str, route_class: str) -> None:
    found = FOUND.find(method, path, "/v1/contacts")
    assert (found.name, found.cost, found.route_class) == (name, 1, route_class)


def _document(*paths: str) -> dict[str, Any]:
    return {"paths": {path: {"get": {"x-rate-limit": {"cost": 1, "class": "read"}}} for path in paths}}


def test_a_dead_end_is_walked_back() -> None:
    made = Operations(_document("/v1/{kind}/{id}/notes", "/v1/deals/{id}"), [Route("/v1", "one")])
    assert made.find("GET", "/v1/deals/7/notes", "/v1").path == "/v1/{kind}/{id}/notes"
    assert made.find("GET", "/v1/deals/7", "/v1").path == "/v1/deals/{id}"
    assert made.find("GET", "/v1/deals/7/other", "/v1").path == "/v1/*"


def test_a_template_that_cannot_be_read_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="whole segment"):
        Operations(_document("/v1/things/{id}.json"), [])
