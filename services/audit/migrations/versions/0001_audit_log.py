"""The audit log, partitioned by month, which its own service may add to and read but not change.

Phase: expand.
"""

from alembic import op

from shared.db import ddl
from shared.events.schema import system_tables_ddl

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLE = "audit.audit_logs_enhanced"

# Comparisons of text are only leakproof, and so only reach an index behind row-level security, as plain
# operators: a prefix is searched as a range, which needs the byte order of "C".
_COLUMNS = """
  organization_id uuid NOT NULL,
  id uuid NOT NULL,
  sequence bigint NOT NULL,
  action text COLLATE "C" NOT NULL,
  actor_type text COLLATE "C" NOT NULL,
  actor_id text COLLATE "C",
  target_type text COLLATE "C" NOT NULL,
  target_id uuid NOT NULL,
  occurred_at timestamptz NOT NULL,
  recorded_at timestamptz NOT NULL,
  source text COLLATE "C" NOT NULL,
  risk_level text COLLATE "C" NOT NULL DEFAULT 'low',
  request_id text COLLATE "C",
  causation_id text COLLATE "C",
  trace_id text COLLATE "C",
  schema_version integer NOT NULL,
  changes jsonb,
  data jsonb NOT NULL,
  search tsvector GENERATED ALWAYS AS (
    to_tsvector('simple', action || ' ' || translate(action, '._', '  ') || ' ' || coalesce(actor_id, '') || ' '
      || target_id::text || ' ' || coalesce(request_id, '') || ' ' || coalesce(trace_id, ''))
    || jsonb_to_tsvector('simple', coalesce(changes, '{}'), '["string", "numeric"]')
    || jsonb_to_tsvector('simple', data, '["string", "numeric"]')) STORED,
  PRIMARY KEY (organization_id, id, occurred_at),
  CHECK (risk_level IN ('low', 'medium', 'high', 'critical'))
"""

_KEYSET = "occurred_at, sequence, id"

# The DEFAULT leaf holds what no month was made for. Nobody may read a leaf, so that its owner counts.
_UNPARTITIONED = """CREATE FUNCTION audit.unpartitioned_entries() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*) FROM audit.audit_logs_enhanced_default
$$"""


def upgrade() -> None:
    """Make the schema."""
    statements = [
        f"CREATE TABLE {_TABLE} ({_COLUMNS}) PARTITION BY RANGE (occurred_at)",
        *ddl.month_partitions(_TABLE),
        *ddl.protect(_TABLE, privileges=("SELECT", "INSERT")),
        *(
            f"CREATE INDEX ON {_TABLE} (organization_id, {order})"
            for order in (_KEYSET, f"target_id, {_KEYSET}", f"actor_id, {_KEYSET}", f"action, {_KEYSET}")
        ),
        f"CREATE INDEX ON {_TABLE} USING gin (organization_id, search)",
        *ddl.search_view(_TABLE),
        _UNPARTITIONED,
        "REVOKE ALL ON FUNCTION audit.unpartitioned_entries() FROM public",
        "GRANT EXECUTE ON FUNCTION audit.unpartitioned_entries() TO svc_audit",
        *system_tables_ddl("audit"),
    ]
    for statement in statements:
        op.execute(statement)
