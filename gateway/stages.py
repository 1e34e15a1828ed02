"""The pipeline's exchangeable stages: signature verification and quotas.

Both may answer with a problem. A gateway made without one of them skips the stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from shared.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from gateway.edge import Pair
    from gateway.routing import Route
    from gateway.signatures import Signing
    from shared.auth import Principal
    from shared.errors import Problem
    from shared.limits.policies import Caller, Operation


@dataclass(slots=True)
class Call:
    """An authenticated request as a stage sees it. ``path`` is decoded; ``headers`` are the client's own, before any
    were dropped. ``signing`` says how its credential must sign, None, or a policy of off: it need not. ``caller`` is whose
    limits it is under.
    ``signed_by`` is set to the id of the key that has signed, where the request does not say it (the older scheme).
    """

    method: str
    path: str
    raw_path: bytes
    query_string: bytes
    headers: Sequence[Pair]
    route: Route
    operation: Operation
    principal: Principal
    signing: Signing | None = None
    secure: bool = False
    caller: Caller | None = None
    signed_by: str | None = None


class Content(Protocol):
    """A request's content, checked as it comes: ``update`` with each piece, and ``finish`` before the last is passed on."""

    def update(self, piece: bytes) -> None: ...

    async def finish(self, *, waited: bool) -> None:
        """Raise the problem that answers the request, if the content is not what was signed.

        ``waited``: it was not all there when the signature was verified, and much may have happened since.
        """
        ...


OnAnswer: TypeAlias = "Callable[[int, Sequence[Pair]], Awaitable[None]]"


class Verified(NamedTuple):
    """Where the content of a verified request is read from, and what is still to be checked with it.

    ``on_answer`` is told status and headers of the service's answer, before the client is.
    """

    receive: Any
    content: Content | None = None
    on_answer: OnAnswer | None = None


class SignatureVerifier(Protocol):
    """Verifies signed requests."""

    async def verify(self, call: Call, receive: Any) -> Verified:
        """Raise the problem that answers a request without a signature that holds."""
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


def replayed(content: bytes, receive: Any, *, more: bool) -> Any:
    """``receive`` for whoever comes after content was taken from it; with ``more``, the rest is still to come."""
    left = [{"type": "http.request", "body": content, "more_body": more}]

    async def again() -> Any:
        return left.pop() if left else await receive()

    return again


async def gathered(receive: Any, content: bytearray, size: int) -> bool:
    """Append content from ``receive`` until there are more bytes than ``size``, or all. Whether there may be more.

    Raises ``BadRequest`` for content that breaks off.
    """
    more = True
    while more and len(content) <= size:
        message = await receive()
        if message["type"] != "http.request":
            raise BadRequest("The content ended before its end.")
        content += message.get("body", b"")
        more = message.get("more_body", False)
    return more
