"""What every way to start has in common: why it cannot, the listening socket, signals, servers that obey them."""

import asyncio
import errno
import gc
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import structlog

from shared.settings import Settings

BACKLOG = 2048
_log = structlog.get_logger(__name__)


class CannotStart(Exception):
    """Why the platform cannot start, and what to do about it."""


def listen(settings: Settings) -> socket.socket:
    """A socket bound to the address of the settings; raises ``CannotStart``."""
    try:
        return bind(settings.host, settings.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CannotStart(
                f"Port {settings.port} is in use. Stop what listens there, or choose another one: "
                f"GUARDIAN_PORT={settings.port + 1} GUARDIAN_HOME=.guardian-{settings.port + 1} make run"
            ) from error
        raise CannotStart(f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}.") from error


def bind(host: str, port: int) -> socket.socket:
    """A TCP socket bound to an address, not listening yet."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def local_url(settings: Settings) -> str:
    """Where this machine reaches the socket of the settings."""
    return (
        f"http://[{settings.host}]:{settings.port}"
        if ":" in settings.host
        else f"http://{settings.host}:{settings.port}"
    )


def collect_seldom() -> None:
    """Look for cyclic garbage, but seldom, and not among what is there by now and stays.

    A batch of events is a hundred thousand objects and not one cycle: with Python's own threshold a third of
    the time that reading a batch takes goes into looking.
    """
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


def unwind_on_sigterm() -> None:
    """Until an event loop has handlers of its own, SIGTERM unwinds like Ctrl-C, or what was started would stay."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


class Stopping:
    """Set by Ctrl-C, SIGTERM or SIGHUP; ``insisted`` by the second of them. Make it inside the event loop.

    ``first`` is called at once with the first one.
    """

    def __init__(self, first: Callable[[], None] | None = None) -> None:
        self._first = first
        self.asked = asyncio.Event()
        self.insisted = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.ask)

    def ask(self) -> None:
        """What a signal does."""
        if self.asked.is_set():
            if not self.insisted.is_set():
                _log.warning("stopping_at_once", message="Asked again to stop: what is not finished is given up.")
            self.insisted.set()
        elif self._first is not None:
            self._first()
        self.asked.set()

    async def wait(self, seconds: float) -> bool:
        """Whether somebody asks within that time."""
        try:
            await asyncio.wait_for(self.asked.wait(), seconds)
        except TimeoutError:
            return False
        return True


class ObeysNoSignals:
    """For a server of uvicorn's: its own handlers would raise the signal again before we have stopped the rest."""

    def capture_signals(self) -> AbstractContextManager[None]:
        """Leave the signals to us."""
        return nullcontext()
