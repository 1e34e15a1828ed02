"""The answer of ``/v1/health``."""

from datetime import datetime

from pydantic import BaseModel, Field

from services.health.domain import Status


class Part(BaseModel):
    """What every part of the platform says about itself."""

    status: Status
    meaning: str = Field(description="what this means, in one sentence")
    action: str | None = Field(None, description="what to do about it; null when there is nothing to do")


class ServiceHealth(Part):
    """One service."""

    name: str = Field(examples=["crm"])
    response_ms: float | None = Field(None, description="how long its own status took to arrive")


class SchemaVersion(BaseModel):
    """Where one service's tables stand beside its code."""

    service: str
    current: str | None
    newest: str | None


class DatabaseHealth(Part):
    """PostgreSQL."""

    latency_ms: float | None = Field(None, description="the slowest of the services' measurements")
    connections_used: int | None = None
    connections_max: int | None = None
    schemas: list[SchemaVersion] = []


class OutboxHealth(BaseModel):
    """Events of one service that are committed and not yet on the bus."""

    service: str
    unsent: int
    oldest_unsent_seconds: float


class BusHealth(Part):
    """The way of the events from the services to their consumers."""

    kind: str | None = Field(None, examples=["postgres"])
    error: str | None = Field(None, description="why events cannot pass through the bus; null when they can")
    oldest_unsent_seconds: float = 0.0
    outboxes: list[OutboxHealth] = []


class ConsumerHealth(Part):
    """One group of consumers."""

    group: str = Field(examples=["audit"])
    service: str
    state: str = Field(examples=["running"], description="elsewhere: its worker is a process that was not asked")
    lag: int | None = Field(description="events it has not dealt with yet; null while the bus cannot be asked")
    parked_keys: int = Field(description="records whose events wait behind a dead letter")
    dead_letters: int = Field(description="events that failed for good, and those waiting behind them")


class HealthDetails(BaseModel):
    """Every part of the platform."""

    services: list[ServiceHealth]
    database: DatabaseHealth
    bus: BusHealth
    consumers: list[ConsumerHealth]


class Health(Part):
    """The platform as a whole."""

    checked_at: datetime
    details: HealthDetails | None = Field(None, description="for callers with the scope health:read")
