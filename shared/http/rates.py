"""What a call costs and of which class it is: written beside the route, read from the contract by whoever limits calls.

Also how a contract describes limits: the header fields of every answer, and the problem of a call that was refused.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field

from shared.http.problems import ProblemDocument
from shared.limits.decision import Source
from shared.limits.policies import Mode, Operation, RouteClass, Unit, Window

Handler = TypeVar("Handler", bound=Callable[..., Any])

_MARK = "rate"
_READS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Rate:
    """``cost`` in units of weighted limits; without a class the method decides: GET and HEAD read, others write."""

    cost: int = 1
    route_class: RouteClass | None = None


def rated(cost: int = 1, route_class: RouteClass | None = None) -> Callable[[Handler], Handler]:
    """Say what one call of an operation costs, under its ``@router.get(…)``.

    Written into the operation's OpenAPI entry as ``x-rate-limit``; an operation that says nothing costs 1.
    """
    if cost < 0:
        raise ValueError("a call cannot give units back")

    def mark(handler: Handler) -> Handler:
        setattr(handler, _MARK, Rate(cost, route_class))
        return handler

    return mark


def rate_of(route: APIRoute, method: str) -> dict[str, Any]:
    """``{cost, class}`` of an operation, as it stands in its OpenAPI entry."""
    rate: Rate = getattr(route.endpoint, _MARK, Rate())
    return {"cost": rate.cost, "class": rate.route_class or ("read" if method.upper() in _READS else "write")}


def operation_of(route: APIRoute, method: str) -> Operation:
    """The operation as the contract names it; HEAD counts as GET."""
    method = "GET" if method == "HEAD" else method
    rate = rate_of(route, method)
    return _only(Operation(method, path_of(route), rate["cost"], rate["class"]))


@lru_cache(maxsize=4096)
def _only(operation: Operation) -> Operation:
    """The same object for the same operation: usage is counted by it."""
    return operation


def path_of(route: APIRoute) -> str:
    """The path as the contract has it: ``/v1/contacts/{contact_id}``."""
    return re.sub(r":\w+}", "}", route.path_format)


class ReceiptPolicy(BaseModel):
    """One limit that applied to a refused call."""

    policy: str = Field(examples=["minute"])
    policy_id: UUID
    plan: str | None = Field(description="the plan it belongs to; null for one of the organisation's own")
    version: int
    subject: str = Field(description="what the call was counted under", examples=["organization"])
    quota: int
    unit: Unit
    window: Window | None = Field(description="null for calls at the same time")
    cost: int = Field(description="what the call would have taken")
    remaining: int
    resets_in: float | None = Field(description="seconds; null for calls at the same time")
    mode: Mode
    decided_by: Source
    refused: bool
    shadow: bool = Field(description="only watched: it refuses nothing")


class Receipt(BaseModel):
    """Why a call was refused."""

    decided_at: datetime
    operation: str = Field(examples=["GET /v1/contacts"])
    policies: list[ReceiptPolicy]


class LimitProblem(ProblemDocument):
    """A problem; one that a limit caused says which, and shows what it was decided on."""

    model_config = ConfigDict(title="LimitProblem")

    violated_policies: list[str] | None = Field(None, alias="violated-policies", examples=[["minute"]])
    receipt: Receipt | None = None


_FIELDS = {
    "RateLimit": (
        "What is left of each limit that counted the call (r), and in how many seconds it starts again (t).",
        {"type": "string", "examples": ['"burst";r=199;t=1, "minute";r=5999;t=34']},
    ),
    "RateLimit-Policy": (
        "Each of those limits: its quota (q) in a window of seconds (w), or of calls at the same time (qu).",
        {"type": "string", "examples": ['"burst";q=200;w=1, "minute";q=6000;w=60']},
    ),
    "Retry-After": ("Seconds to wait before the next try.", {"type": "integer", "minimum": 0}),
}
HEADER_COMPONENTS = {name: {"description": text, "schema": schema} for name, (text, schema) in _FIELDS.items()}
"""Header fields of limits, for the components of a document."""


def field_references(status: str) -> dict[str, Any]:
    """References to the fields an answer of this status may have."""
    names = _FIELDS if status in {"429", "503"} else ("RateLimit", "RateLimit-Policy")
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
