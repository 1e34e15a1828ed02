"""The tables of the schema ``crm``; all of them are tenant tables."""

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Integer, Text, Uuid
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR

from shared.db import metadata_for, tenant_table
from shared.http import idempotency

metadata = metadata_for("crm")
idempotency.table(metadata)


def _record_columns() -> list[Column[object]]:
    """What every record has: owner, tags, custom fields, version, times and its search document."""
    return [
        Column("owner_id", Uuid),
        Column("tags", ARRAY(Text), nullable=False),
        Column("custom_fields", JSONB, nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        Column("updated_at", DateTime(timezone=True), nullable=False),
        Column("deleted_at", DateTime(timezone=True)),
        Column("search", TSVECTOR),
    ]


contacts = tenant_table(
    "contacts",
    metadata,
    Column("first_name", Text, nullable=False),
    Column("last_name", Text, nullable=False),
    Column("email", Text),
    Column("phone", Text),
    Column("job_title", Text),
    Column("company_id", Uuid),
    Column("sort_name", Text),
    *_record_columns(),
)

companies = tenant_table(
    "companies",
    metadata,
    Column("name", Text, nullable=False),
    Column("domain", Text),
    Column("industry", Text),
    Column("phone", Text),
    Column("employee_count", Integer),
    Column("sort_name", Text),
    *_record_columns(),
)

pipelines = tenant_table(
    "pipelines",
    metadata,
    Column("name", Text, nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
)

stages = tenant_table(
    "stages",
    metadata,
    Column("pipeline_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("probability", Integer, nullable=False),
    Column("kind", Text, nullable=False),
)

deals = tenant_table(
    "deals",
    metadata,
    Column("name", Text, nullable=False),
    Column("pipeline_id", Uuid, nullable=False),
    Column("stage_id", Uuid, nullable=False),
    Column("status", Text, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("company_id", Uuid),
    Column("contact_id", Uuid),
    Column("expected_close_at", DateTime(timezone=True)),
    Column("stage_changed_at", DateTime(timezone=True), nullable=False),
    Column("closed_at", DateTime(timezone=True)),
    Column("sort_name", Text),
    *_record_columns(),
)

activities = tenant_table(
    "activities",
    metadata,
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("occurred_at", DateTime(timezone=True), nullable=False),
    Column("due_at", DateTime(timezone=True)),
    Column("completed_at", DateTime(timezone=True)),
    Column("contact_id", Uuid),
    Column("company_id", Uuid),
    Column("deal_id", Uuid),
    *_record_columns(),
)

custom_fields = tenant_table(
    "custom_fields",
    metadata,
    Column("record_type", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("options", ARRAY(Text), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
)
