"""The table of the schema ``audit``."""

from sqlalchemy import BigInteger, Column, DateTime, Integer, PrimaryKeyConstraint, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR

from shared.db import Tenancy, metadata_for

metadata = metadata_for("audit")

entries = Table(
    "audit_logs_enhanced",
    metadata,
    Column("organization_id", Uuid, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("action", Text, nullable=False),
    Column("actor_type", Text, nullable=False),
    Column("actor_id", Text),
    Column("target_type", Text, nullable=False),
    Column("target_id", Uuid, nullable=False),
    Column("occurred_at", DateTime(timezone=True), nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    Column("source", Text, nullable=False),
    Column("risk_level", Text, nullable=False),
    Column("request_id", Text),
    Column("causation_id", Text),
    Column("trace_id", Text),
    Column("schema_version", Integer, nullable=False),
    Column("changes", JSONB),
    Column("data", JSONB, nullable=False),
    Column("search", TSVECTOR),
    # The time is part of the key because the table is partitioned by it; an event's time never changes,
    # so that the key still makes one entry of one event.
    PrimaryKeyConstraint("organization_id", "id", "occurred_at"),
    info={"tenancy": Tenancy.TENANT},
)
