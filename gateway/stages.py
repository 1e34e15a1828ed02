"""The pipeline's exchangeable stages: signature verification and quotas.

Both may answer with a problem. A gateway made without one of them skips the stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.edge import Pair
    from gateway.routing import Route
    from shared.auth import Principal
    from shared.errors import Problem


@dataclass(slots=True)
class Call:
    """An authenticated request as a stage sees it. ``path`` is decoded; ``headers`` are the client's own, before any
    were dropped.
    """

    method: str
    path: str
    raw_path: bytes
    query_string: bytes
    headers: Sequence[Pair]
    route: Route
    principal: Principal


class SignatureVerifier(Protocol):
    """Verifies signed requests."""

    async def verify(self, call: Call, receive: Any) -> Any:
        """Raise ``Unauthenticated``, or return the ``receive`` to read the body from (it may check a digest)."""
        ...


class Taken(NamedTuple):
    """What a quota stage has to say: ``headers`` are for the answer, whatever it will be.

    ``ended`` is called once when the request has ended, in whatever way, with the status of its answer. With a
    ``refusal`` it is not forwarded.
    """

    headers: Sequence[Pair] = ()
    ended: Callable[[int], None] | None = None
    refusal: Problem | None = None


class QuotaGate(Protocol):
    """Takes what a request costs from its caller's quota."""

    async def take(self, call: Call) -> Taken:
        """Take it, or refuse."""
        ...
