"""The tables of the schema ``ratelimit``: plans are the platform's own, all else belongs to an organisation."""

from sqlalchemy import ARRAY, BigInteger, Boolean, Column, DateTime, Integer, PrimaryKeyConstraint, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB

from shared.db import Tenancy, global_table, metadata_for, tenant_table
from shared.http import idempotency

metadata = metadata_for("ratelimit")
idempotency.table(metadata)


def _moment(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _policy_columns() -> list[Column[object]]:
    """What a policy is, whoever made it."""
    return [
        Column("name", Text, nullable=False),
        Column("description", Text, nullable=False),
        Column("quota", BigInteger, nullable=False),
        Column("unit", Text, nullable=False),
        Column("window", Text),
        Column("timezone", Text, nullable=False),
        Column("per", ARRAY(Text), nullable=False),
        Column("routes", ARRAY(Text), nullable=False),
        Column("classes", ARRAY(Text), nullable=False),
        Column("keys", ARRAY(Uuid), nullable=False),
        Column("users", ARRAY(Uuid), nullable=False),
        Column("weighted", Boolean, nullable=False),
        Column("mode", Text, nullable=False),
        Column("on_failure", Text, nullable=False),
        Column("shadow", Boolean, nullable=False),
        Column("enabled", Boolean, nullable=False),
        Column("epoch", Integer, nullable=False),
    ]


def _counted(*columns: Column[object]) -> list[Column[object]]:
    """What a counter is of."""
    return [
        Column("organization_id", Uuid, nullable=False),
        Column("policy_id", Uuid, nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("subject", Text, nullable=False),
        *columns,
    ]


plans = global_table(
    "plans",
    metadata,
    Column("name", Text, primary_key=True),
    Column("title", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("position", Integer, nullable=False),
)

plan_policies = global_table(
    "plan_policies",
    metadata,
    Column("plan", Text, nullable=False),
    Column("id", Uuid, primary_key=True),
    *_policy_columns(),
)

organization_plans = Table(
    "organization_plans",
    metadata,
    Column("organization_id", Uuid, nullable=False),
    Column("plan", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    _moment("updated_at"),
    PrimaryKeyConstraint("organization_id"),
    info={"tenancy": Tenancy.TENANT},
)

policies = tenant_table(
    "policies",
    metadata,
    *_policy_columns(),
    Column("version", BigInteger, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
)

overrides = tenant_table(
    "overrides",
    metadata,
    Column("policy_id", Uuid, nullable=False),
    Column("pattern", Text, nullable=False),
    Column("quota", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
    _moment("expires_at", nullable=True),
    Column("version", BigInteger, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
)

policy_changes = tenant_table(
    "policy_changes",
    metadata,
    Column("policy_id", Uuid, nullable=False),
    Column("policy_name", Text, nullable=False),
    Column("override_id", Uuid),
    Column("pattern", Text),
    Column("action", Text, nullable=False),
    Column("actor_type", Text, nullable=False),
    Column("actor_id", Text, nullable=False),
    Column("request_id", Text),
    Column("changes", JSONB, nullable=False),
    _moment("occurred_at"),
)

counters = Table(
    "api_rate_limits",
    metadata,
    *_counted(_moment("window_start"), _moment("window_end")),
    Column("used", BigInteger, nullable=False),
    Column("admitted", BigInteger, nullable=False),
    Column("quota", BigInteger, nullable=False),
    Column("highest_quota", BigInteger, nullable=False),
    _moment("leased_until"),
    _moment("recalled_at"),
    Column("refused", Boolean, nullable=False),
    PrimaryKeyConstraint("organization_id", "policy_id", "epoch", "subject", "window_start"),
    info={"tenancy": Tenancy.TENANT},
)

slots = Table(
    "concurrency_slots",
    metadata,
    *_counted(Column("replica", Uuid, nullable=False), Column("slots", BigInteger, nullable=False)),
    _moment("expires_at"),
    Column("statement", BigInteger, nullable=False),
    PrimaryKeyConstraint("organization_id", "policy_id", "epoch", "subject", "replica"),
    info={"tenancy": Tenancy.TENANT},
)

replicas = global_table("replicas", metadata, Column("id", Uuid, primary_key=True), _moment("seen_at"))


def _actors_minute(*columns: Column[object]) -> list[Column[object]]:
    """Whose minute it is: a key's, or a user's in a session."""
    return [
        Column("organization_id", Uuid, nullable=False),
        _moment("minute"),
        Column("actor_type", Text, nullable=False),
        Column("actor_id", Text, nullable=False),
        *columns,
    ]


usage_minutes = Table(
    "usage_minutes",
    metadata,
    *_actors_minute(Column("route", Text, nullable=False), Column("class", Text, nullable=False)),
    Column("user_id", Text),
    Column("calls", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("refused_cost", BigInteger, nullable=False),
    Column("shadow_refused", BigInteger, nullable=False),
    PrimaryKeyConstraint("organization_id", "minute", "actor_type", "actor_id", "route"),
    info={"tenancy": Tenancy.TENANT},
)

usage_events = Table(
    "usage_events",
    metadata,
    *_actors_minute(Column("dirty", Boolean, nullable=False), Column("sequence", BigInteger, nullable=False)),
    PrimaryKeyConstraint("organization_id", "minute", "actor_type", "actor_id"),
    info={"tenancy": Tenancy.TENANT},
)

usage_batches = global_table(
    "usage_batches",
    metadata,
    Column("replica", Uuid, primary_key=True),
    Column("batch", BigInteger, nullable=False),
    _moment("seen_at"),
)

audit_watermark = global_table(
    "audit_watermark", metadata, Column("id", Boolean, primary_key=True), _moment("audited_until")
)
