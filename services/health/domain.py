"""What observations mean, and what to do about them: pure rules."""

from collections.abc import Iterable, Sequence
from typing import Literal

Status = Literal["ok", "degraded", "down"]

SLOW_DATABASE_MS = 250.0
FULL_CONNECTIONS = 0.9
LATE_SECONDS = 15.0
"""An event on its way for longer than a relay's replacement takes (10 s) is stuck, not late."""
STUCK_SECONDS = 300.0
LONG_LAG = 10_000

_SEVERITY: dict[Status, int] = {"ok": 0, "degraded": 1, "down": 2}

Verdict = tuple[Status, str, str | None]
"""A status, what it means, and what to do about it."""


def worst(statuses: Iterable[Status]) -> Status:
    """The gravest of several statuses."""
    return max(statuses, key=_SEVERITY.__getitem__, default="ok")


def whole(services: Sequence[Status], database: Status, rest: Iterable[Status]) -> Verdict:
    """The platform as a whole: down when nothing can be served, degraded when something is wrong."""
    if database == "down" or all(status == "down" for status in services):
        return "down", "The platform cannot serve requests.", "Begin with the parts that are down."
    if worst((*services, database, *rest)) != "ok":
        return "degraded", "The platform works, but a part of it does not as it should.", "See the parts not 'ok'."
    return "ok", "Everything works.", None


def service(
    *, answered: bool, database_reachable: bool | None, worker_ready: bool | None, bus_error: str | None
) -> Verdict:
    """One service. ``None`` where it has no database, or its worker is in another process."""
    if not answered:
        return "down", "It does not answer; requests to it fail.", "Look at its log and start it again."
    if database_reachable is False:
        return "down", "It answers, but cannot reach its database; requests to it fail.", "See the database."
    if worker_ready is False and bus_error:
        return "degraded", "It serves requests; its background tasks wait for the bus.", "See the bus."
    if worker_ready is False:
        return (
            "degraded",
            "It serves requests, but a task in its background has failed and is being tried again.",
            "Look in its log for 'worker_task_failed'; events it publishes or consumes wait until it succeeds.",
        )
    return "ok", "It answers, and its background tasks run.", None


def database(
    *,
    reachable: int,
    unreachable: int,
    latency_ms: float | None,
    used: int | None,
    most: int | None,
    outdated: list[str],
) -> Verdict:
    """PostgreSQL, from what several services found; ``outdated`` are those whose tables are not as their code."""
    if not reachable:
        if not unreachable:
            return "degraded", "No service has reported on the database.", "See the services that do not answer."
        return (
            "down",
            "No service can reach the database; nothing can be read or written.",
            "Check that PostgreSQL runs and that DATABASE_URL leads to it; the services recover by themselves.",
        )
    if unreachable:
        return "degraded", "Some services cannot reach the database.", "Check their roles and free connections."
    if outdated:
        return (
            "degraded",
            f"The tables of {', '.join(outdated)} are not at the version of the code.",
            "Run: guardian migrate",
        )
    if used is not None and most is not None and used >= FULL_CONNECTIONS * most:
        return (
            "degraded",
            "Nearly all connections are taken; new ones may be refused.",
            "Raise max_connections, or lower GUARDIAN_DATABASE_POOL_SIZE.",
        )
    if latency_ms is not None and latency_ms > SLOW_DATABASE_MS:
        return "degraded", "The database answers slowly.", "Look for long statements, and at its machine's load."
    return "ok", "It answers, and all tables are at the version of the code.", None


def bus(*, workers: int, cut_off: int, wrong: Sequence[str], oldest_unsent_seconds: float) -> Verdict:
    """The event path, from the outboxes of the services whose workers could be asked.

    Events of ``cut_off`` of those workers cannot pass; ``wrong`` says what has to be changed on a bus that is reached.
    """
    if not workers:
        return "degraded", "No worker could be asked how events flow.", "Start the services' workers."
    if wrong:
        whose = "events" if cut_off == workers else "the events of some services"
        return (
            "down" if cut_off == workers else "degraded",
            f"The bus is not as {whose} need it; nothing is lost: they wait in the outboxes.",
            " ".join(dict.fromkeys(wrong)),
        )
    if cut_off:
        whose = "No service can reach" if cut_off == workers else "Some services cannot reach"
        return (
            "down" if cut_off == workers else "degraded",
            f"{whose} the bus; nothing is lost: events wait in the outboxes.",
            "Check that the broker of KAFKA_BOOTSTRAP_SERVERS runs and can be reached; the services recover by themselves.",
        )
    if oldest_unsent_seconds > STUCK_SECONDS:
        return (
            "down",
            "Events are stored but do not reach the bus; nothing is lost, and consumers learn of nothing new.",
            "See the service whose outbox is not empty: its worker is not running, or its log says why it cannot send.",
        )
    if oldest_unsent_seconds > LATE_SECONDS:
        return "degraded", "Events reach the bus late.", "If the age keeps growing, look at the service's log."
    return "ok", "Events reach the bus at once.", None


def consumer(*, state: str, lag: int | None, parked_keys: int, bus_error: str | None) -> Verdict:
    """One consumer group; ``lag`` is None while it is not known."""
    if state == "circuit_open":
        return (
            "down",
            "Most events failed, so that it has stopped and tries one from time to time; none is lost.",
            "Look in its log for 'events_dead_letter', and mend the cause; it goes on by itself.",
        )
    if bus_error:
        return "degraded", "It waits for the bus; how far it is behind is not known until then.", "See the bus."
    if state == "waiting":
        return (
            "degraded",
            "It waits for something it needs and tries again.",
            "See the database and its service's log.",
        )
    if state == "stopped":
        return "degraded", "It is not running; events wait for it.", "Start its service's worker."
    if parked_keys:
        return (
            "degraded",
            f"It runs, but the events of {parked_keys} record(s) wait behind one that failed for good.",
            "Read the error beside the dead letter, mend the cause, and have it handled again.",
        )
    if lag is not None and lag > LONG_LAG:
        return (
            "degraded",
            "It runs, but is far behind.",
            "Nothing, if the number falls; else look at the database's load.",
        )
    return "ok", "It keeps up.", None
