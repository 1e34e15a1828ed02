"""Every failure as the caller sees it."""

import logging
from typing import Any

import asyncpg
import orjson
import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from shared import errors
from shared.http.problems import problem_of, render

# What asyncpg raises for a value that is none of its parameter's type; its name is taken by PostgreSQL's own.
CANNOT_BE_SENT = next(kind for kind in asyncpg.InterfaceError.__subclasses__() if kind.__name__ == "DataError")


def database_error(kind: type[Exception], **fields: str) -> Exception:
    error = kind("a message with a secret value")
    for name, value in fields.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.NotFound("gone"), 404, "not_found"),
        (HTTPException(404), 404, "not_found"),
        (HTTPException(405, headers={"Allow": "GET"}), 405, "method_not_allowed"),
        (HTTPException(418), 418, "bad_request"),
        (ClientDisconnect(), 400, "bad_request"),
        (database_error(asyncpg.DataError), 422, "validation_failed"),
        (database_error(CANNOT_BE_SENT), 422, "validation_failed"),
        (database_error(asyncpg.CharacterNotInRepertoireError), 422, "validation_failed"),
        (database_error(asyncpg.UniqueViolationError), 409, "already_exists"),
        (database_error(asyncpg.QueryCanceledError), 503, "busy"),
        (database_error(asyncpg.LockNotAvailableError), 503, "busy"),
        (database_error(asyncpg.SerializationError), 503, "busy"),
        (database_error(asyncpg.DeadlockDetectedError), 503, "busy"),
        (database_error(asyncpg.AdminShutdownError), 503, "service_unavailable"),
        (database_error(asyncpg.InterfaceError), 503, "service_unavailable"),
        (ConnectionRefusedError(), 503, "service_unavailable"),
        (TimeoutError(), 503, "service_unavailable"),
        (errors.ServiceUnavailable(retry_after=7), 503, "service_unavailable"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_failure_has_its_status_and_code(error: Exception, status: int, code: str) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.code) == (status, code)
    assert ("Retry-After" in problem.headers) is (status == 503)
    assert "secret" not in (problem.detail or "")


def test_headers_of_a_failure_are_kept() -> None:
    assert problem_of(HTTPException(405, headers={"Allow": "GET"})).headers == {"Allow": "GET"}


def test_what_nobody_expected_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        problem = problem_of(RuntimeError("secret"))
    assert (problem.status, problem.code) == (500, "internal_error")
    assert "secret" not in (problem.detail or "")
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("fields", "pointers"),
    [
        (
            {"detail": 'Key (organization_id, company_id)=(secret, secret) is not present in table "companies".'},
            ["/company_id"],
        ),
        ({"detail": 'Key (user_id)=(secret) is not present in table "users".'}, ["/user_id"]),
        (
            {
                "detail": 'Key is not present in table "companies".',
                "constraint_name": "contacts_p07_organization_id_company_id_fkey",
            },
            ["/company_id"],
        ),
        ({"detail": 'Key is not present in table "x".', "constraint_name": "something_else"}, []),
        ({}, []),
    ],
    ids=str,
)
def test_a_reference_to_nothing_names_its_field_and_no_value(fields: dict[str, str], pointers: list[str]) -> None:
    problem = problem_of(database_error(asyncpg.ForeignKeyViolationError, **fields))
    assert (problem.status, problem.code) == (422, "unknown_reference")
    assert [each["field"] for each in problem.errors] == pointers
    assert b"secret" not in errors.problem_body(problem, instance="/", request_id="")


def test_what_others_refer_to_cannot_go() -> None:
    detail = 'Key (organization_id, id)=(secret, secret) is still referenced from table "deals".'
    problem = problem_of(database_error(asyncpg.ForeignKeyViolationError, detail=detail))
    assert (problem.status, problem.code, problem.errors) == (409, "still_referenced", [])


def invalid(*location: Any, kind: str = "missing") -> errors.Problem:
    return problem_of(RequestValidationError([{"type": kind, "loc": location, "msg": "message", "input": "secret"}]))


@pytest.mark.parametrize(
    ("location", "field"),
    [
        (("body", "items", 3, "email"), "/items/3/email"),
        (("body", "a/b~c"), "/a~1b~0c"),
        (("body", "custom_fields", "Bad", "[key]"), "/custom_fields/Bad"),
        (("body", "x" * 5000), "/" + "x" * 199),
        (("query", "limit"), "limit"),
        (("path", "contact_id"), "contact_id"),
        (("header", "x" * 300), "x" * 200),
        ((), ""),
    ],
    ids=str,
)
def test_an_invalid_value_is_pointed_at(location: tuple[Any, ...], field: str) -> None:
    problem = invalid(*location)
    assert (problem.status, problem.code) == (422, "validation_failed")
    assert problem.errors == [{"field": field, "code": "missing", "message": "message"}]


def test_whoever_sends_no_body_is_told_what_to_send() -> None:
    (field,) = invalid("body").errors
    assert (field["field"], field["code"]) == ("/", "missing")
    assert "send a JSON object" in field["message"]


def test_what_is_not_json_is_a_bad_request() -> None:
    problem = invalid("body", 7, kind="json_invalid")
    assert (problem.status, problem.code) == (400, "malformed_json")


def test_an_answer_is_a_problem_document() -> None:
    problem = errors.Forbidden("no", code="missing_scope", headers={"X-Test": "1"}, required_scope="a:b")
    answer = render(problem, {"path": "/v1/contacts", "request_id": "r-1"})
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    assert answer.headers["x-test"] == "1"
    assert orjson.loads(bytes(answer.body)) == {
        "type": "urn:guardian:problem:missing_scope",
        "title": "The credential does not allow this",
        "status": 403,
        "code": "missing_scope",
        "detail": "no",
        "instance": "/v1/contacts",
        "request_id": "r-1",
        "required_scope": "a:b",
    }
