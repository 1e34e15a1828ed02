"""Contacts, companies, deals, activities: partitioned by hash of the organisation.

Phase: expand.
"""

from alembic import op

from shared.db import ddl
from shared.events.schema import system_tables_ddl
from shared.http import idempotency

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_RECORD = """
  owner_id uuid,
  tags text[] NOT NULL,
  custom_fields jsonb NOT NULL,
  version bigint NOT NULL,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  deleted_at timestamptz,
"""


def _search(*texts: str) -> str:
    # Addresses, domains and telephone numbers become plain words, each of which can be found; the
    # repository takes a search text apart in the same way.
    document = " || ' ' || ".join(texts)
    words = f"translate({document}, '@._-+/:', '       ')"
    return f"search tsvector GENERATED ALWAYS AS (to_tsvector('simple', {words})) STORED"


_TABLES = {
    "companies": f"""
  name text NOT NULL, domain text, industry text, phone text, employee_count integer,
  sort_name text GENERATED ALWAYS AS (lower(name)) STORED,
  {_search("name", "coalesce(domain, '')", "coalesce(industry, '')", "coalesce(phone, '')")}
""",
    "contacts": f"""
  first_name text NOT NULL, last_name text NOT NULL, email text, phone text, job_title text, company_id uuid,
  sort_name text GENERATED ALWAYS AS (lower(last_name || ' ' || first_name)) STORED,
  {_search("first_name", "last_name", "coalesce(email, '')", "coalesce(phone, '')", "coalesce(job_title, '')")},
  FOREIGN KEY (organization_id, company_id) REFERENCES crm.companies (organization_id, id)
""",
    "deals": f"""
  name text NOT NULL, pipeline_id uuid NOT NULL, stage_id uuid NOT NULL, status text NOT NULL,
  amount_minor bigint NOT NULL, currency text NOT NULL, company_id uuid, contact_id uuid,
  expected_close_at timestamptz, stage_changed_at timestamptz NOT NULL, closed_at timestamptz,
  sort_name text GENERATED ALWAYS AS (lower(name)) STORED,
  {_search("name")},
  FOREIGN KEY (organization_id, company_id) REFERENCES crm.companies (organization_id, id),
  FOREIGN KEY (organization_id, contact_id) REFERENCES crm.contacts (organization_id, id),
  CONSTRAINT deals_organization_id_stage_id_fkey FOREIGN KEY (organization_id, pipeline_id, stage_id)
    REFERENCES crm.stages (organization_id, pipeline_id, id),
  CHECK (status IN ('open', 'won', 'lost'))
""",
    "activities": f"""
  kind text NOT NULL, subject text NOT NULL, body text NOT NULL, occurred_at timestamptz NOT NULL,
  due_at timestamptz, completed_at timestamptz, contact_id uuid, company_id uuid, deal_id uuid,
  {_search("subject", "left(body, 5000)")},
  FOREIGN KEY (organization_id, company_id) REFERENCES crm.companies (organization_id, id),
  FOREIGN KEY (organization_id, contact_id) REFERENCES crm.contacts (organization_id, id),
  FOREIGN KEY (organization_id, deal_id) REFERENCES crm.deals (organization_id, id),
  CHECK (kind IN ('call', 'email', 'meeting', 'note', 'task'))
""",
}

_SMALL = [
    """CREATE TABLE crm.pipelines (
  organization_id uuid NOT NULL, id uuid NOT NULL, name text NOT NULL, is_default boolean NOT NULL,
  version bigint NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
  PRIMARY KEY (organization_id, id))""",
    "CREATE UNIQUE INDEX pipelines_one_default ON crm.pipelines (organization_id) WHERE is_default",
    """CREATE TABLE crm.stages (
  organization_id uuid NOT NULL, id uuid NOT NULL, pipeline_id uuid NOT NULL, name text NOT NULL,
  position integer NOT NULL, probability integer NOT NULL, kind text NOT NULL,
  PRIMARY KEY (organization_id, id), UNIQUE (organization_id, pipeline_id, id),
  UNIQUE (organization_id, pipeline_id, position) DEFERRABLE INITIALLY DEFERRED,
  FOREIGN KEY (organization_id, pipeline_id) REFERENCES crm.pipelines (organization_id, id) ON DELETE CASCADE,
  CHECK (kind IN ('open', 'won', 'lost')))""",
    """CREATE TABLE crm.custom_fields (
  organization_id uuid NOT NULL, id uuid NOT NULL, record_type text NOT NULL, key text NOT NULL,
  label text NOT NULL, type text NOT NULL, options text[] NOT NULL, version bigint NOT NULL,
  created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
  PRIMARY KEY (organization_id, id), UNIQUE (organization_id, record_type, key))""",
]

_ORDERS = {
    # The lists' sort orders; a keyset cursor walks them.
    "companies": ["created_at", "updated_at", "sort_name"],
    "contacts": ["created_at", "updated_at", "sort_name"],
    "deals": ["created_at", "updated_at", "sort_name", "amount_minor"],
    "activities": ["occurred_at", "created_at", "updated_at"],
}
_LOOKUPS = {
    # What is listed by one value, in the list's default order; rows without a value cost nothing.
    "companies": ["domain"],
    "contacts": ["email", "company_id"],
    "deals": ["stage_id", "company_id", "contact_id"],
    "activities": ["contact_id", "company_id", "deal_id"],
}


def _indexes(name: str) -> list[str]:
    on, alive = f"CREATE INDEX ON crm.{name}", "WHERE deleted_at IS NULL"
    orders, lookups = _ORDERS[name], _LOOKUPS[name]
    default = orders[0]
    return [
        *(f"{on} (organization_id, {order}, id) {alive}" for order in orders),
        *(f"{on} (organization_id, {key}, {default}, id) {alive} AND {key} IS NOT NULL" for key in lookups),
        # Deleted rows are few, and looked at rarely.
        f"{on} (organization_id, created_at, id) WHERE deleted_at IS NOT NULL",
        # A search reads the whole list of entries that are not yet merged, so it is kept short (kB).
        f"{on} USING gin (organization_id, search, tags) WITH (gin_pending_list_limit = 256)",
    ]


def _record_table(name: str) -> list[str]:
    table = f"crm.{name}"
    columns = f"organization_id uuid NOT NULL, id uuid NOT NULL, {_RECORD} {_TABLES[name]}"
    return [
        f"CREATE TABLE {table} ({columns}, PRIMARY KEY (organization_id, id)) PARTITION BY HASH (organization_id)",
        *ddl.hash_partitions(table),
        *ddl.protect(table),
        *_indexes(name),
        *ddl.search_view(table),
    ]


def upgrade() -> None:
    """Make the schema."""
    statements = [*_SMALL]
    for name in ("pipelines", "stages", "custom_fields"):
        statements += ddl.protect(f"crm.{name}")
    for name in _TABLES:
        statements += _record_table(name)
    statements += [*idempotency.ddl("crm"), *ddl.protect("crm.idempotency_keys"), *system_tables_ddl("crm")]
    for statement in statements:
        op.execute(statement)
