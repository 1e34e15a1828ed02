"""Plans, an organisation's own policies, their exceptions and their history.

Phase: expand.

``resolve_limits`` is what a process that enforces limits asks, once per organisation: the policies of its plan, its
own, and the exceptions to both. Whoever changes one of these tables makes every process ask again.
"""

from alembic import op

from shared.db import ddl
from shared.http import idempotency

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# What a policy is, whoever made it. An empty list of routes, classes, keys or users means all of them.
_POLICY = """
  name text COLLATE "C" NOT NULL, description text NOT NULL DEFAULT '',
  quota bigint NOT NULL, unit text NOT NULL DEFAULT 'requests', "window" text, timezone text NOT NULL DEFAULT 'UTC',
  per text[] NOT NULL DEFAULT '{organization}', routes text[] NOT NULL DEFAULT '{}',
  classes text[] NOT NULL DEFAULT '{}', keys uuid[] NOT NULL DEFAULT '{}', users uuid[] NOT NULL DEFAULT '{}',
  weighted boolean NOT NULL DEFAULT true, mode text NOT NULL DEFAULT 'exact',
  on_failure text NOT NULL DEFAULT 'share', shadow boolean NOT NULL DEFAULT false,
  enabled boolean NOT NULL DEFAULT true, epoch integer NOT NULL DEFAULT 1,
  CHECK (quota BETWEEN 0 AND 1000000000000),
  CHECK (unit IN ('requests', 'concurrent-requests') AND mode IN ('exact', 'fast', 'strict')),
  CHECK ("window" IN ('second', 'minute', 'hour', 'day', 'month') AND on_failure IN ('open', 'closed', 'share')),
  CHECK (("window" IS NULL) = (unit = 'concurrent-requests'))
"""

_TABLES = [
    """CREATE TABLE ratelimit.plans (
  name text COLLATE "C" PRIMARY KEY, title text NOT NULL, description text NOT NULL, position integer NOT NULL)""",
    f"""CREATE TABLE ratelimit.plan_policies (
  plan text COLLATE "C" NOT NULL REFERENCES ratelimit.plans, id uuid NOT NULL, {_POLICY},
  PRIMARY KEY (id), UNIQUE (plan, name))""",
    """CREATE TABLE ratelimit.organization_plans (
  organization_id uuid PRIMARY KEY, plan text COLLATE "C" NOT NULL,
  version bigint NOT NULL DEFAULT 1, updated_at timestamptz NOT NULL DEFAULT clock_timestamp())""",
    f"""CREATE TABLE ratelimit.policies (
  organization_id uuid NOT NULL, id uuid NOT NULL, {_POLICY},
  version bigint NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
  PRIMARY KEY (organization_id, id), UNIQUE (organization_id, name))""",
    # policy_id may name a policy of the plan. A pattern is matched against the policy's subject; * is anything.
    """CREATE TABLE ratelimit.overrides (
  organization_id uuid NOT NULL, id uuid NOT NULL, policy_id uuid NOT NULL, pattern text COLLATE "C" NOT NULL,
  quota bigint NOT NULL, note text NOT NULL DEFAULT '', expires_at timestamptz, version bigint NOT NULL,
  created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
  PRIMARY KEY (organization_id, id), UNIQUE (organization_id, policy_id, pattern),
  CHECK (quota BETWEEN 0 AND 1000000000000))""",
    """CREATE TABLE ratelimit.policy_changes (
  organization_id uuid NOT NULL, id uuid NOT NULL, policy_id uuid NOT NULL, policy_name text NOT NULL,
  override_id uuid, pattern text, action text NOT NULL, actor_type text NOT NULL, actor_id text NOT NULL, request_id text, changes jsonb NOT NULL,
  occurred_at timestamptz NOT NULL, PRIMARY KEY (organization_id, id))""",
    "CREATE INDEX ON ratelimit.policy_changes (organization_id, policy_id, occurred_at, id)",
]

_PLANS = {
    "free": ("Free", "For trying things out.", 1),
    "pro": ("Pro", "For a team at work.", 2),
    "enterprise": ("Enterprise", "Everything, at scale.", 3),
}
# (plan, name, what for, quota, window or None, mode). What is fast (nobody waits for a database to be told that this
# second is full) counts calls, whatever they cost: work that is larger than a second's quota could never pass.
_PLAN_POLICIES = [
    ("free", "burst", "Calls in a second", 20, "second", "fast"),
    ("free", "minute", "Calls in a minute", 300, "minute", "exact"),
    ("free", "month", "Calls in a month", 100_000, "month", "exact"),
    ("free", "concurrent", "Calls at the same time", 10, None, "exact"),
    ("pro", "burst", "Calls in a second", 200, "second", "fast"),
    ("pro", "minute", "Calls in a minute", 6_000, "minute", "exact"),
    ("pro", "month", "Calls in a month", 5_000_000, "month", "exact"),
    ("pro", "concurrent", "Calls at the same time", 100, None, "exact"),
    ("enterprise", "burst", "Calls in a second", 5_000, "second", "fast"),
    ("enterprise", "minute", "Calls in a minute", 200_000, "minute", "exact"),
]

_RESOLVE_LIMITS = """CREATE FUNCTION ratelimit.resolve_limits(organization uuid, default_plan text)
RETURNS TABLE (id uuid, name text, quota bigint, unit text, "window" text, timezone text, per text[], routes text[],
  classes text[], keys uuid[], users uuid[], weighted boolean, mode text, on_failure text, shadow boolean,
  epoch integer, version bigint, plan text, overrides jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, ratelimit, pg_temp AS $$
  WITH mine AS (
    SELECT coalesce((SELECT o.plan FROM organization_plans o WHERE o.organization_id = organization), default_plan) AS plan
  ), policy AS (
    SELECT p.id, p.name, p.quota, p.unit, p."window", p.timezone, p.per, p.routes, p.classes, p.keys, p.users,
      p.weighted, p.mode, p.on_failure, p.shadow, p.epoch, 1::bigint AS version, p.plan
    FROM plan_policies p JOIN mine USING (plan) WHERE p.enabled
    UNION ALL
    SELECT p.id, p.name, p.quota, p.unit, p."window", p.timezone, p.per, p.routes, p.classes, p.keys, p.users,
      p.weighted, p.mode, p.on_failure, p.shadow, p.epoch, p.version, NULL
    FROM policies p WHERE p.organization_id = organization AND p.enabled
  )
  SELECT policy.*, coalesce((
    SELECT jsonb_agg(jsonb_build_object('pattern', o.pattern, 'quota', o.quota,
      'expires_in', extract(epoch FROM o.expires_at - clock_timestamp())) ORDER BY o.pattern)
    FROM overrides o WHERE o.organization_id = organization AND o.policy_id = policy.id
      AND (o.expires_at IS NULL OR o.expires_at > clock_timestamp())), '[]')
  FROM policy ORDER BY policy.plan NULLS LAST, policy.id
$$"""

_NOTIFY = """CREATE FUNCTION ratelimit.notify_limits() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, ratelimit, pg_temp AS $$
BEGIN
  PERFORM pg_notify('guardian_limits', coalesce(
    'organization:' || (to_jsonb(coalesce(new, old)) ->> 'organization_id'), '*'));
  RETURN NULL;
END $$"""

_WATCHED = ("plan_policies", "organization_plans", "policies", "overrides")

# Which plan an organisation is on is for whoever runs the installation, not for its members: the service's role
# only reads it, and this function is the operator's (guardian plans set).
_SET_PLAN = """CREATE FUNCTION ratelimit.set_plan(organization uuid, new_plan text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, ratelimit, pg_temp AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM plans p WHERE p.name = new_plan) THEN
    RAISE foreign_key_violation USING message = format('there is no plan %L', new_plan);
  END IF;
  INSERT INTO organization_plans AS o (organization_id, plan) VALUES (organization, new_plan)
    ON CONFLICT (organization_id) DO UPDATE
    SET plan = excluded.plan, version = o.version + 1, updated_at = clock_timestamp() WHERE o.plan <> excluded.plan;
END $$"""


def _plan_rows() -> list[str]:
    rows = [
        f"INSERT INTO ratelimit.plans VALUES ('{name}', '{title}', '{description}', {position})"  # noqa: S608 (our own)
        for name, (title, description, position) in _PLANS.items()
    ]
    for plan, name, text, quota, window, mode in _PLAN_POLICIES:
        unit = "requests" if window else "concurrent-requests"
        period = f"'{window}'" if window else "NULL"
        # The id is derived, so that every installation has the same one and a receipt can be looked up anywhere.
        rows.append(
            'INSERT INTO ratelimit.plan_policies (plan, id, name, description, quota, unit, "window", mode, weighted) VALUES '  # noqa: S608
            f"('{plan}', md5('guardian-plan:{plan}:{name}')::uuid, '{name}', '{text}', {quota}, '{unit}', {period}, "
            f"'{mode}', {mode != 'fast'})"
        )
    return rows


def upgrade() -> None:
    """Make the policies and the plans."""
    statements = [*_TABLES, *_plan_rows(), _RESOLVE_LIMITS, _NOTIFY, _SET_PLAN]
    statements += idempotency.ddl("ratelimit")
    for table in ("policies", "overrides", "idempotency_keys"):
        statements += ddl.protect(f"ratelimit.{table}")
    statements += ddl.protect("ratelimit.policy_changes", privileges=("SELECT", "INSERT"))
    statements += ddl.protect("ratelimit.organization_plans", privileges=("SELECT",))
    statements.append("GRANT SELECT ON ratelimit.plans, ratelimit.plan_policies TO svc_ratelimit")
    for function in ("resolve_limits(uuid, text)", "notify_limits()", "set_plan(uuid, text)"):
        statements.append(f"REVOKE ALL ON FUNCTION ratelimit.{function} FROM public")
    for name in ("gateway", "identity", "crm", "audit", "ratelimit"):
        statements.append(f"GRANT EXECUTE ON FUNCTION ratelimit.resolve_limits(uuid, text) TO svc_{name}")
    for table in _WATCHED:
        statements.append(
            f"CREATE TRIGGER notify_limits AFTER INSERT OR UPDATE OR DELETE ON ratelimit.{table} "
            "FOR EACH ROW EXECUTE FUNCTION ratelimit.notify_limits()"
        )
    for statement in statements:
        op.execute(statement)
