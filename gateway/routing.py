"""Which service answers a path: one table of prefixes, matched on whole segments, the longest first."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

Operation = tuple[str, str]
"""A method and a path; ``{name}`` in the path stands for one segment."""


@dataclass(frozen=True, slots=True)
class Route:
    """Everything below ``prefix`` belongs to ``service``; ``public`` operations need no principal."""

    prefix: str
    service: str
    public: frozenset[Operation] = field(default=frozenset())


class RoutingTable:
    """Finds the route of a path, and whether an operation is public."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._by_prefix: dict[str, Route] = {}
        for route in self.routes:
            if not re.fullmatch(r"(/[a-z0-9._-]+)+", route.prefix):
                raise ValueError(f"not a path prefix: {route.prefix!r}")
            if route.prefix in self._by_prefix:
                raise ValueError(f"two routes for {route.prefix}")
            self._by_prefix[route.prefix] = route
        self._depths = sorted({prefix.count("/") for prefix in self._by_prefix}, reverse=True)
        self._public: set[Operation] = set()
        self._public_patterns: dict[str, list[re.Pattern[str]]] = {}
        for operation in (operation for route in self.routes for operation in route.public):
            self._add_public(*operation)

    def match(self, path: str) -> Route | None:
        """The route whose prefix is the longest of those that lead ``path``."""
        route = self._by_prefix.get(path)  # nothing leads further than all of it
        return route if route is not None else self._match_shorter(path)

    def _match_shorter(self, path: str) -> Route | None:
        for depth in self._depths:
            end = 0
            for _ in range(depth):
                end = path.find("/", end + 1)
                if end < 0:
                    break
            route = self._by_prefix.get(path[:end] if end > 0 else path)
            if route is not None:
                return route
        return None

    def is_public(self, method: str, path: str) -> bool:
        """Whether the operation may be called without a credential. HEAD counts as GET."""
        method = "GET" if method == "HEAD" else method
        if (method, path) in self._public:
            return True
        return any(pattern.fullmatch(path) for pattern in self._public_patterns.get(method, ()))

    def _add_public(self, method: str, path: str) -> None:
        if self.match(path) is None:
            raise ValueError(f"a public operation without a route: {method} {path}")
        if "{" in path:
            pattern = re.sub(r"\\\{[^/]*?\\\}", "[^/]+", re.escape(path))
            self._public_patterns.setdefault(method, []).append(re.compile(pattern))
        else:
            self._public.add((method, path))
