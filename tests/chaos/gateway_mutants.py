"""A platform that is wrong on purpose (``--mutant``): a run that finds nothing wrong with one of them shows nothing.

``python -m tests.chaos.gateway_mutants NAME run crm …`` is ``guardian run crm …`` with that wrong in it. Only a run of
its own starts such a process; production code knows nothing of them.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import gateway.exchange
import gateway.upstream
from gateway.nonces import Nonce, Nonces
from shared.http import idempotency
from shared.signing.digests import ContentDigest


def forget_nonces() -> None:
    """A gateway that remembers what it has seen itself, and asks nobody."""

    async def remember(self: Nonces, nonce: Nonce) -> bool:
        key = (nonce.key_id, nonce.text)
        is_new = key not in self._seen
        self._seen[key] = None
        return is_new

    Nonces.remember = remember  # type: ignore[method-assign]


def ignore_keys() -> None:
    """A service that carries out whatever it is sent, whether its key was answered before or not."""

    async def once(_key: str, request: Any, _unit: Any, _route: str, handler: Callable[[Any], Any]) -> Any:
        return await handler(request)

    idempotency.once = once  # type: ignore[assignment]


def believe_digests() -> None:
    """A gateway that does not look whether content is what was signed."""
    ContentDigest.check = lambda self: None  # type: ignore[method-assign]


def repeat_everything() -> None:
    """A gateway that sends again whatever was not answered."""
    gateway.upstream._REPEATABLE |= {"POST"}


def end_cleanly() -> None:
    """A gateway that ends an answer its service broke off as if that were all of it."""
    right = gateway.exchange.Exchange.send

    async def send(self: gateway.exchange.Exchange, message: Any) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message.get("headers", ()) if pair[0] != b"content-length"]
            message = {**message, "headers": kept}
        await right(self, message)

    async def failed(self: gateway.exchange.Exchange, failure: BaseException | None) -> None:
        if self.answered:
            await right(self, {"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await right_failed(self, failure)

    right_failed = gateway.exchange.Exchange._upstream_failed
    gateway.exchange.Exchange.send = send  # type: ignore[method-assign]
    gateway.exchange.Exchange._upstream_failed = failed  # type: ignore[method-assign]


MUTANTS: Mapping[str, tuple[str, Callable[[], None]]] = {
    made.__name__.replace("_", "-"): (service, made)
    for service, made in (
        ("gateway", forget_nonces), ("crm", ignore_keys), ("gateway", believe_digests), ("gateway", repeat_everything),
        ("gateway", end_cleanly),
    )
}  # fmt: skip
"""By name: the service it is in, and what makes it wrong."""


def main() -> None:
    """Be wrong, and otherwise what ``guardian`` is."""
    name, *arguments = sys.argv[1:]
    MUTANTS[name][1]()
    from cli.main import app

    app(arguments)


if __name__ == "__main__":
    main()
