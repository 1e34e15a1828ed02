"""Turns every failure into an RFC 9457 answer; nothing a caller sends is answered with a 500."""

import logging
import re
from collections.abc import Sequence
from typing import Any

import asyncpg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from shared import errors
from shared.db.database import UNAVAILABLE
from shared.errors import FieldError, Problem

logger = logging.getLogger(__name__)


class ProblemField(BaseModel):
    """One offending field."""

    field: str = Field(examples=["/email"])
    code: str = Field(examples=["value_error"])
    message: str


class ProblemDocument(BaseModel):
    """An RFC 9457 problem. ``code`` is stable; ``detail`` says what to do next."""

    type: str = Field(examples=["urn:guardian:problem:not_found"])
    title: str
    status: int
    code: str = Field(examples=["not_found"])
    detail: str | None = None
    instance: str
    request_id: str
    errors: list[ProblemField] | None = None


def problem_response(description: str, schema: str = "Problem") -> dict[str, Any]:
    """An answer that is a problem, as it stands in an OpenAPI document."""
    content = {errors.PROBLEM_JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


_BY_STATUS = {p.status: p for p in Problem.__subclasses__()}
_DOCUMENTED = (400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 429, 503)
_LIMITED = frozenset({429, 503})
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: problem_response(_BY_STATUS[status].title, "LimitProblem" if status in _LIMITED else "Problem")
    for status in _DOCUMENTED
}
"""What every operation may answer besides its success, for its OpenAPI entry."""

RESPONSE_NAMES = {str(status): _BY_STATUS[status].__name__ for status in _DOCUMENTED}
"""What each of them is called in a document's components, by status."""

_BAD_VALUES = (
    asyncpg.exceptions.DataError,
    asyncpg.CharacterNotInRepertoireError,
    asyncpg.UntranslatableCharacterError,
)
_KEY_DETAIL = re.compile(r"^Key \(([a-z0-9_, ]+)\)")
_CONSTRAINT = re.compile(r"^\w*?_organization_id_(\w+)_fkey$")
_POINTER_LENGTH = 200


def render(problem: Problem, scope: Any) -> Response:
    """The answer for ``problem``."""
    principal = scope.get("principal")
    body = errors.problem_body(
        problem, instance=scope["path"], request_id=principal.request_id if principal else scope.get("request_id", "")
    )
    return Response(body, problem.status, problem.headers, media_type=errors.PROBLEM_JSON)


def problem_of(error: Exception) -> Problem:
    """The problem a caller sees for ``error``; logs what is our fault."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestValidationError):
        return _validation_problem(error)
    if isinstance(error, ClientDisconnect):
        return errors.BadRequest("The request ended before its body did.")
    if isinstance(error, HTTPException):
        kind = _BY_STATUS.get(error.status_code, errors.BadRequest)
        problem = kind(str(error.detail), headers=error.headers)
        problem.status = error.status_code
        return problem
    if isinstance(error, _BAD_VALUES) or (isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)):
        return errors.ValidationFailed("A value cannot be stored: it is out of range or holds a NUL character.")
    if isinstance(error, asyncpg.UniqueViolationError):
        return errors.Conflict("A resource with the same unique value exists already.", code="already_exists")
    if isinstance(error, asyncpg.ForeignKeyViolationError):
        return _reference_problem(error)
    if isinstance(
        error,
        asyncpg.QueryCanceledError
        | asyncpg.LockNotAvailableError
        | asyncpg.SerializationError
        | asyncpg.DeadlockDetectedError,
    ):
        return errors.ServiceUnavailable("The database was too busy to finish this in time; try again.", code="busy")
    if isinstance(error, UNAVAILABLE):
        return errors.ServiceUnavailable("The database cannot be reached right now; try again shortly.")
    logger.error("unhandled error", exc_info=error)
    return Problem("The error has been logged under this request_id.")


def _validation_problem(error: RequestValidationError) -> Problem:
    details = error.errors()
    if any(item["type"] == "json_invalid" for item in details):
        return errors.BadRequest(
            f"The body is not JSON: {details[0].get('ctx', {}).get('error', '')}", code="malformed_json"
        )
    fields = [FieldError(field=_pointer(each["loc"]), code=each["type"], message=_message(each)) for each in details]
    return errors.ValidationFailed("See 'errors' for each offending field.", errors=fields)


def _message(detail: dict[str, Any]) -> str:
    if detail["type"] == "missing" and tuple(detail["loc"]) == ("body",):
        return "The request has no body; send a JSON object, {} where no field is required"
    return str(detail["msg"]).removeprefix("Value error, ")


def _reference_problem(error: asyncpg.ForeignKeyViolationError) -> Problem:
    if "is still referenced" in (error.detail or ""):
        return errors.Conflict("Other resources still refer to this one.", code="still_referenced")
    # PostgreSQL leaves the key out where row-level security holds; the constraint's name has it, too.
    # Neither is passed on as it is: the values behind it are nobody's business.
    columns = _KEY_DETAIL.match(error.detail or "") or _CONSTRAINT.match(error.constraint_name or "")
    field = columns[1].rpartition(", ")[2] if columns else ""
    return unknown_reference([f"/{field}"] if field else [])


def unknown_reference(fields: Sequence[str]) -> errors.ValidationFailed:
    """The answer for references to what does not exist, is deleted, or belongs to somebody else: all look alike.

    ``fields`` are JSON pointers.
    """
    return errors.ValidationFailed(
        "The request refers to a resource that does not exist.",
        code="unknown_reference",
        errors=[FieldError(field=each, code="unknown_reference", message="does not exist") for each in fields],
    )


def _pointer(location: tuple[Any, ...]) -> str:
    if location and location[0] == "body":
        parts = [str(part).replace("~", "~0").replace("/", "~1") for part in location[1:] if part != "[key]"]
        return "".join(f"/{part}" for part in parts)[:_POINTER_LENGTH] or "/"
    return str(location[-1])[:_POINTER_LENGTH] if location else ""


def _is_json(request: Request) -> bool:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def install(app: FastAPI) -> None:
    """Answer what ``app`` raises on purpose as a problem; ``ServiceEdge`` does so for everything else."""

    async def handle(request: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError) and isinstance(error.body, bytes) and not _is_json(request):
            error = errors.UnsupportedMediaType("Send the body as JSON, with 'Content-Type: application/json'.")
        return render(problem_of(error), request.scope)

    for kind in (Problem, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handle)
