"""What health reads of a service's status: its own tolerant model of it, only the fields it uses."""

from pydantic import BaseModel, ConfigDict


class _Tolerant(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class DatabaseReport(_Tolerant):
    """The database as the service finds it."""

    reachable: bool
    latency_ms: float | None = None
    connections_used: int | None = None
    connections_max: int | None = None
    schema_version: str | None = None
    code_version: str | None = None


class ConsumerReport(_Tolerant):
    """One of the service's consumer groups."""

    group: str
    state: str
    lag: int | None = None
    dead_letters: int = 0
    parked_keys: int = 0


class WorkerReport(_Tolerant):
    """The service's background half."""

    ready: bool
    bus: str
    bus_error: str | None = None
    bus_reached: bool = True
    relay_active: bool | None = None
    unsent: int = 0
    oldest_unsent_seconds: float = 0.0
    consumers: tuple[ConsumerReport, ...] = ()


class StatusReport(_Tolerant):
    """A service's answer."""

    database: DatabaseReport | None = None
    worker: WorkerReport | None = None


class Observation(_Tolerant):
    """A service as health found it; ``report`` is None when it gave no usable answer."""

    service: str
    report: StatusReport | None = None
    response_ms: float | None = None
    problem: str | None = None
