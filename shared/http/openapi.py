"""The OpenAPI side of the conventions: camelCase operation ids, problems, required scopes, what a call costs."""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from shared.http.problems import PROBLEM_RESPONSES, RESPONSE_NAMES, ProblemDocument
from shared.http.rates import HEADER_COMPONENTS, LimitProblem, field_references, path_of, rate_of


def operation_id(route: APIRoute) -> str:
    """``create_contact`` → ``createContact``."""
    head, *rest = route.name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def required_scope(route: APIRoute) -> str | None:
    """The scope an operation asks for with ``requires``, or None for one that anybody may call."""
    for dependency in route.dependant.dependencies:
        scope: str | None = getattr(dependency.call, "required_scope", None)
        if scope:
            return scope
    return None


def requires_user(route: APIRoute) -> bool:
    """Whether an operation asks for a person who is signed in, and for no scope."""
    return any(getattr(dependency.call, "requires_user", False) for dependency in route.dependant.dependencies)


def install(app: FastAPI) -> None:
    """Make ``app.openapi()`` write our conventions down."""
    original = app.openapi

    def build() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = original()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for name, model in (("Problem", ProblemDocument), ("LimitProblem", LimitProblem)):
                problem = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(problem.pop("$defs", {}))
                schemas[name] = problem
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            _annotate(app, document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = build  # type: ignore[method-assign]


def _annotate(app: FastAPI, document: dict[str, Any]) -> None:
    routes = {(path_of(route), method.lower()): route for route in api_routes(app) for method in route.methods or ()}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            route = routes[path, method]
            scope = required_scope(route)
            if scope:
                operation["x-required-scope"] = scope
            if requires_user(route):
                operation["x-requires-user"] = True
            operation["x-rate-limit"] = rate_of(route, method)
            operation["responses"] = _responses(operation["responses"])
            if method == "post":
                operation.setdefault("parameters", []).append({"$ref": "#/components/parameters/IdempotencyKey"})
    document["components"]["responses"] = {
        name: _with_limits(status, PROBLEM_RESPONSES[int(status)]) for status, name in RESPONSE_NAMES.items()
    }
    document["components"]["headers"] = HEADER_COMPONENTS
    document["components"]["parameters"] = {
        "IdempotencyKey": {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "Makes the request safe to repeat: the same key answers the same for 24 hours.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
        }
    }


def _responses(responses: dict[str, Any]) -> dict[str, Any]:
    """An operation's answers: the usual problems by reference, and all with the header fields of limits."""
    return {
        status: {"$ref": f"#/components/responses/{RESPONSE_NAMES[status]}"}
        if status in RESPONSE_NAMES and answer == PROBLEM_RESPONSES[int(status)]
        else _with_limits(status, answer)
        for status, answer in responses.items()
    }


def _with_limits(status: str, answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "headers": field_references(status) | answer.get("headers", {})}


def api_routes(app: FastAPI) -> list[APIRoute]:
    """Every operation of an application."""
    # FastAPI keeps an included router as one entry of ``app.routes``; this looks inside.
    return [each.route for each in iter_route_contexts(app.routes) if isinstance(each.route, APIRoute)]
