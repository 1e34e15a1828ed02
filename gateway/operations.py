"""Which operation of the contract a request is, with what it costs: found once per request, before it is forwarded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.routing import Route
from shared.limits.policies import Operation

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_OTHER = "OTHER"


class _Node:
    """What may follow a part of a path: segments by name, or any one."""

    __slots__ = ("any", "named", "operation")

    def __init__(self) -> None:
        self.named: dict[str, _Node] = {}
        self.any: _Node | None = None
        self.operation: Operation | None = None

    def add(self, segments: list[str], operation: Operation) -> None:
        node = self
        for segment in segments:
            if segment.startswith("{") and segment.endswith("}"):
                node.any = node.any or _Node()
                node = node.any
            elif "{" in segment:
                raise ValueError(f"a parameter must be a whole segment of the path: {operation.name}")
            else:
                node = node.named.setdefault(segment, _Node())
        node.operation = operation

    def find(self, segments: list[str], at: int) -> Operation | None:
        """A segment's name goes before a parameter, from left to right."""
        if at == len(segments):
            return self.operation
        segment = segments[at]
        node = self.named.get(segment)
        found = node.find(segments, at + 1) if node is not None else None
        if found is None and self.any is not None and segment:
            found = self.any.find(segments, at + 1)
        return found


class Operations:
    """The operations of a merged OpenAPI document, by method and path. HEAD counts as GET.

    What the document does not have is one operation per route and method, ``GET /v1/contacts/*``: looking for what
    is not there costs like anything else, and nobody can make names up without end.
    """

    def __init__(self, document: Mapping[str, Any], routes: Iterable[Route]) -> None:
        self._static: dict[str, dict[str, Operation]] = {method: {} for method in _METHODS}
        self._templates = {method: _Node() for method in _METHODS}
        for path, item in document["paths"].items():
            for method in _METHODS:
                if method.lower() in item:
                    self._add(method, path, item[method.lower()])
        self._static["HEAD"], self._templates["HEAD"] = self._static["GET"], self._templates["GET"]
        self._unknown = {
            (method, route.prefix): Operation(
                "GET" if method == "HEAD" else method,
                f"{route.prefix}/*",
                route_class="read" if method in {"GET", "HEAD"} else "write",
            )
            for route in routes
            for method in (*_METHODS, "HEAD", _OTHER)
        }

    def find(self, method: str, path: str, prefix: str) -> Operation:
        """The operation of a request below a route's ``prefix``; ``path`` is decoded."""
        known = self._static.get(method)
        if known is None:
            return self._unknown[_OTHER, prefix]
        found = known.get(path)
        if found is None:
            found = self._templates[method].find(path.split("/"), 0)
        return found if found is not None else self._unknown[method, prefix]

    def _add(self, method: str, path: str, entry: Mapping[str, Any]) -> None:
        rate = entry["x-rate-limit"]
        operation = Operation(method, path, rate["cost"], rate["class"])
        if "{" in path:
            self._templates[method].add(path.split("/"), operation)
        else:
            self._static[method][path] = operation
