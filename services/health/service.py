"""Asks every service how it is doing, and says what the answers mean together."""

import asyncio
import time
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from services.health import domain
from services.health.reports import Observation, StatusReport
from services.health.schemas import (
    BusHealth,
    ConsumerHealth,
    DatabaseHealth,
    Health,
    HealthDetails,
    OutboxHealth,
    SchemaVersion,
    ServiceHealth,
)
from shared import clock
from shared.auth import Principal
from shared.errors import Problem
from shared.http.client import ServiceClient
from shared.ids import NIL, new_id

KEPT_SECONDS = 1.0
"""How long a report is given again, so that asking often does not load the services."""
STALE_SECONDS, WAIT_SECONDS = 5.0, 0.02
"""How long it is given while the next one is being made, to those who have waited so long for that: a service that is
slow to say how it is doing must not make its watchers slow."""
DEADLINE_SECONDS = 2.0


class Monitor:
    """Makes the report; those who ask at the same time share one."""

    def __init__(self, clients: Mapping[str, ServiceClient]) -> None:
        self._clients = clients
        self._report: Health | None = None
        self._made = 0.0
        self._making: asyncio.Task[Health] | None = None

    async def report(self) -> Health:
        """The state of every part, at most ``KEPT_SECONDS`` old; ``STALE_SECONDS`` while the next report takes its time."""
        last, age = self._report, time.monotonic() - self._made
        if last is not None and age <= KEPT_SECONDS:
            return last
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make(), name="health-report")
        waiting = WAIT_SECONDS if last is not None and age <= STALE_SECONDS else None
        done, _ = await asyncio.wait({self._making}, timeout=waiting)
        return self._making.result() if done or last is None else last

    async def _make(self) -> Health:
        self._report = report = assess(await self._observe())
        self._made = time.monotonic()
        return report

    async def stop(self) -> None:
        """Ask nobody any more, and close the connections to the services."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait({self._making})
        for client in self._clients.values():
            await client.close()

    async def _observe(self) -> list[Observation]:
        return list(await asyncio.gather(*(_ask(client) for client in self._clients.values())))


async def _ask(client: ServiceClient) -> Observation:
    started = time.perf_counter()
    # The question is the platform's own: the same whoever asked for the page, so no caller's name goes along.
    principal = Principal(NIL, "service", "health", request_id=str(new_id()))
    try:
        response = await client.call("GET", "/internal/status", principal=principal, deadline=DEADLINE_SECONDS)
        report = StatusReport.model_validate_json(response.content)
    except Problem as problem:
        return Observation(service=client.callee, problem=problem.code)
    except ValidationError:
        return Observation(service=client.callee, problem="unreadable_status")
    return Observation(
        service=client.callee, report=report, response_ms=round((time.perf_counter() - started) * 1000, 1)
    )


def assess(observations: Sequence[Observation]) -> Health:
    """The report on what was observed."""
    services = [_service(each) for each in observations]
    services.append(ServiceHealth(name="health", status="ok", meaning="It made this report.", response_ms=0.0))
    database, bus, consumers = _database(observations), _bus(observations), _consumers(observations)
    others = services[:-1] or services
    status, meaning, action = domain.whole(
        [each.status for each in others], database.status, [bus.status, *(each.status for each in consumers)]
    )
    details = HealthDetails(services=services, database=database, bus=bus, consumers=consumers)
    return Health(status=status, meaning=meaning, action=action, checked_at=clock.now(), details=details)


def _service(seen: Observation) -> ServiceHealth:
    report = seen.report
    status, meaning, action = domain.service(
        answered=report is not None,
        database_reachable=report.database.reachable if report and report.database else None,
        worker_ready=report.worker.ready if report and report.worker else None,
        bus_error=report.worker.bus_error if report and report.worker else None,
    )
    return ServiceHealth(name=seen.service, status=status, meaning=meaning, action=action, response_ms=seen.response_ms)


def _database(observations: Sequence[Observation]) -> DatabaseHealth:
    found = [(each.service, each.report.database) for each in observations if each.report and each.report.database]
    reached = [(service, database) for service, database in found if database.reachable]
    latencies = [database.latency_ms for _, database in reached if database.latency_ms is not None]
    used = [database.connections_used for _, database in reached if database.connections_used is not None]
    most = next((database.connections_max for _, database in reached if database.connections_max), None)
    schemas = [
        SchemaVersion(service=service, current=database.schema_version, newest=database.code_version)
        for service, database in reached
    ]
    status, meaning, action = domain.database(
        reachable=len(reached),
        unreachable=len(found) - len(reached),
        latency_ms=max(latencies, default=None),
        used=max(used, default=None),
        most=most,
        outdated=[each.service for each in schemas if each.current != each.newest],
    )
    return DatabaseHealth(
        status=status, meaning=meaning, action=action, latency_ms=max(latencies, default=None),
        connections_used=max(used, default=None), connections_max=most, schemas=schemas,
    )  # fmt: skip


def _bus(observations: Sequence[Observation]) -> BusHealth:
    workers = [(each.service, each.report.worker) for each in observations if each.report and each.report.worker]
    outboxes = [
        OutboxHealth(service=service, unsent=worker.unsent, oldest_unsent_seconds=worker.oldest_unsent_seconds)
        for service, worker in workers
        if worker.relay_active is not None
    ]
    oldest = max((each.oldest_unsent_seconds for each in outboxes), default=0.0)
    errors = [worker.bus_error for _, worker in workers if worker.bus_error]
    status, meaning, action = domain.bus(
        workers=len(workers),
        cut_off=len(errors),
        wrong=[worker.bus_error for _, worker in workers if worker.bus_error and worker.bus_reached],
        oldest_unsent_seconds=oldest,
    )
    return BusHealth(
        status=status, meaning=meaning, action=action, kind=workers[0][1].bus if workers else None,
        error=errors[0] if errors else None, oldest_unsent_seconds=oldest, outboxes=outboxes,
    )  # fmt: skip


def _consumers(observations: Sequence[Observation]) -> list[ConsumerHealth]:
    made = []
    for seen, worker in [(each, each.report.worker) for each in observations if each.report and each.report.worker]:
        for each in worker.consumers:
            status, meaning, action = domain.consumer(
                state=each.state, lag=each.lag, parked_keys=each.parked_keys, bus_error=worker.bus_error
            )
            made.append(
                ConsumerHealth(
                    group=each.group,
                    service=seen.service,
                    state=each.state,
                    lag=each.lag,
                    parked_keys=each.parked_keys,
                    dead_letters=each.dead_letters,
                    status=status,
                    meaning=meaning,
                    action=action,
                )
            )
    return made
