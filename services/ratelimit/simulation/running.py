"""How many simulations run at a time: each keeps for seconds a connection that other calls need."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from shared.errors import Conflict, ServiceUnavailable

AT_ONCE = 2
"""Simulations of a process: they share its connections with everything else that it answers."""
_RETRY_SECONDS = 5


class Simulations:
    """The organisations that this process simulates for."""

    def __init__(self) -> None:
        self._running: set[UUID] = set()

    @contextmanager
    def one(self, organization_id: UUID) -> Iterator[None]:
        """A place until the block is left.

        Raises ``Conflict`` (``simulation_running``) while the organisation has one, and ``ServiceUnavailable`` while all
        are taken.
        """
        if organization_id in self._running:
            raise Conflict(
                "A simulation of your organisation is running; wait for its answer, then send this one again.",
                code="simulation_running",
            )
        if len(self._running) >= AT_ONCE:
            raise ServiceUnavailable(
                f"{AT_ONCE} simulations of other organisations are running, which is the most at a time; send this one "
                f"again in {_RETRY_SECONDS} seconds.",
                retry_after=_RETRY_SECONDS,
            )
        self._running.add(organization_id)
        try:
            yield
        finally:
            self._running.remove(organization_id)
