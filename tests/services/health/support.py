"""Applications that stand for services in trouble."""

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send


async def garbled(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers something that is no status."""
    await PlainTextResponse("it works!")(scope, receive, send)


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    """Fails before it answers."""
    raise RuntimeError("a mistake")
