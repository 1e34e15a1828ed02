"""Errors a caller may see: RFC 9457 problems with a stable ``code``.

Raise one of these anywhere below the HTTP edge; the edge renders it. ``code`` is part of the public
contract and never changes its meaning; ``detail`` is for people and says what to do next.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import orjson

PROBLEM_JSON = "application/problem+json"


class FieldError(TypedDict):
    """One offending field: a JSON pointer into the body, or the parameter's name."""

    field: str
    code: str
    message: str


class Problem(Exception):
    """An answer that is not a success. Subclasses fix ``status`` and a default ``code``.

    ``type`` is set where a URI is registered for the kind of problem; others are named after their code.
    """

    status = 500
    code = "internal_error"
    title = "Something went wrong on our side"
    type: str | None = None

    def __init__(
        self,
        detail: str | None = None,
        *,
        code: str | None = None,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        **extensions: Any,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        self.code = code or self.code
        self.errors = list(errors)
        self.headers = dict(headers or {})
        self.extensions = extensions


class BadRequest(Problem):
    status, code, title = 400, "bad_request", "The request is malformed"


class Unauthenticated(Problem):
    status, code, title = 401, "unauthenticated", "No valid credential was sent"


class Forbidden(Problem):
    status, code, title = 403, "forbidden", "The credential does not allow this"


class NotFound(Problem):
    status, code, title = 404, "not_found", "There is no such resource"


class MethodNotAllowed(Problem):
    status, code, title = 405, "method_not_allowed", "The resource does not support this method"


class Conflict(Problem):
    status, code, title = 409, "conflict", "The request conflicts with the current state"


class PreconditionFailed(Problem):
    status, code, title = 412, "precondition_failed", "The resource has changed since it was read"


class ContentTooLarge(Problem):
    status, code, title = 413, "content_too_large", "The request body is over the limit"


class UnsupportedMediaType(Problem):
    status, code, title = 415, "unsupported_media_type", "The request body has the wrong media type"


class ValidationFailed(Problem):
    status, code, title = 422, "validation_failed", "Some fields are not valid"


class TooManyRequests(Problem):
    status, code, title = 429, "too_many_requests", "There were too many requests"

    def __init__(self, detail: str | None = None, *, retry_after: int = 60, **kwargs: Any) -> None:
        super().__init__(detail, **kwargs)
        self.headers.setdefault("Retry-After", str(retry_after))


class ServiceUnavailable(Problem):
    status, code, title = 503, "service_unavailable", "A part of the platform is not available"

    def __init__(self, detail: str | None = None, *, retry_after: int = 2, **kwargs: Any) -> None:
        super().__init__(detail, **kwargs)
        self.headers.setdefault("Retry-After", str(retry_after))


class QuotaExceeded(TooManyRequests):
    """A limit of the caller's is used up."""

    code, title = "quota_exceeded", "A limit is used up"
    type = "https://iana.org/assignments/http-problem-types#quota-exceeded"


class ReducedCapacity(ServiceUnavailable):
    """Whether a call is within its limits cannot be decided at the moment."""

    code, title = "limiter_unavailable", "Limits cannot be checked at the moment"
    type = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"


def problem_body(problem: Problem, *, instance: str, request_id: str) -> bytes:
    """Render a problem as RFC 9457 JSON, with our members ``code``, ``request_id`` and ``errors``."""
    body: dict[str, Any] = {
        "type": problem.type or f"urn:guardian:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "code": problem.code,
        "instance": instance,
        "request_id": request_id,
    }
    if problem.detail:
        body["detail"] = problem.detail
    if problem.errors:
        body["errors"] = problem.errors
    body.update(problem.extensions)
    return orjson.dumps(body, default=str)
