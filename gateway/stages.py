"""The pipeline's exchangeable stages: signature verification and quotas.

Both may answer with a ``Problem``. A gateway made without one of them skips the stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.edge import Pair
    from gateway.routing import Route
    from shared.auth import Principal


@dataclass(slots=True)
class Call:
    """An authenticated request as a stage sees it. ``headers`` are the client's own, before any were dropped."""

    method: str
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


class QuotaGate(Protocol):
    """Takes what a request costs from its caller's quota."""

    async def take(self, call: Call) -> Sequence[Pair]:
        """Raise a 429 problem, or return headers for the answer."""
        ...
