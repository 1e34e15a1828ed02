"""Usage by minute, kept for 35 days in a partition a day; which of it was published; how far the counters are audited.

Phase: expand.

A process hands in what it counted with ``record_usage``. A batch whose answer was lost is sent again under its number
and has no second effect. Days are dropped, never deleted from.
"""

from alembic import op

from shared.db import ddl

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLES = [
    # actor_id is the key's id, or the user's in a session. cost is of the calls that were admitted.
    """CREATE TABLE ratelimit.usage_minutes (
  organization_id uuid NOT NULL, minute timestamptz NOT NULL, actor_type text COLLATE "C" NOT NULL,
  actor_id text COLLATE "C" NOT NULL, route text COLLATE "C" NOT NULL, class text COLLATE "C" NOT NULL,
  user_id text COLLATE "C", calls bigint NOT NULL, refused bigint NOT NULL, cost bigint NOT NULL,
  refused_cost bigint NOT NULL, shadow_refused bigint NOT NULL,
  PRIMARY KEY (organization_id, minute, actor_type, actor_id, route)
) PARTITION BY RANGE (minute)""",
    # What was published of an actor's minute: dirty while there is more of it than the event of this sequence said.
    """CREATE TABLE ratelimit.usage_events (
  organization_id uuid NOT NULL, minute timestamptz NOT NULL, actor_type text COLLATE "C" NOT NULL,
  actor_id text COLLATE "C" NOT NULL, dirty boolean NOT NULL DEFAULT true, sequence bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (organization_id, minute, actor_type, actor_id)
) PARTITION BY RANGE (minute)""",
    "CREATE INDEX ON ratelimit.usage_events (organization_id, minute) WHERE dirty",
    """CREATE TABLE ratelimit.usage_batches (
  replica uuid PRIMARY KEY, batch bigint NOT NULL, seen_at timestamptz NOT NULL) WITH (fillfactor = 50)""",
    """CREATE TABLE ratelimit.audit_watermark (
  id boolean PRIMARY KEY DEFAULT true CHECK (id), audited_until timestamptz NOT NULL)""",
    "INSERT INTO ratelimit.audit_watermark (audited_until) VALUES (clock_timestamp())",
    # For the audit and the purge, and for the audit of one organisation. Nobody updates a window's end (HOT).
    "CREATE INDEX ON ratelimit.api_rate_limits (window_end)",
    "CREATE INDEX ON ratelimit.api_rate_limits (organization_id, window_end)",
]

# A new leaf needs the table for itself, which it gets within half a second or not at all: whoever waits behind it
# writes usage. The days to come are made in time by roll_usage, so that record_usage seldom has to.
_MAKE_USAGE_DAY = """CREATE FUNCTION ratelimit.make_usage_day(day date) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '500ms' AS $$
DECLARE
  parent text;
  leaf text;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('ratelimit.usage'));
  FOREACH parent IN ARRAY ARRAY['usage_minutes', 'usage_events'] LOOP
    leaf := parent || '_' || to_char(day, 'YYYYMMDD');
    CONTINUE WHEN to_regclass('ratelimit.' || leaf) IS NOT NULL;
    EXECUTE format('CREATE TABLE ratelimit.%I PARTITION OF ratelimit.%I FOR VALUES FROM (%L) TO (%L)
                    WITH (fillfactor = 70)', leaf, parent, day, day + 1);
    EXECUTE format('ALTER TABLE ratelimit.%I ENABLE ROW LEVEL SECURITY', leaf);
    EXECUTE format('ALTER TABLE ratelimit.%I FORCE ROW LEVEL SECURITY', leaf);
  END LOOP;
END $$"""

_ROLL_USAGE = """CREATE FUNCTION ratelimit.roll_usage() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, ratelimit, pg_temp
SET timezone = 'UTC' SET lock_timeout = '500ms' AS $$
DECLARE
  today date := clock_timestamp()::date;
  leaf text;
BEGIN
  DELETE FROM usage_batches WHERE seen_at < clock_timestamp() - interval '35 days';
  FOR ahead IN 0..2 LOOP PERFORM make_usage_day(today + ahead); END LOOP;
  FOR leaf IN
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent IN ('ratelimit.usage_minutes'::regclass, 'ratelimit.usage_events'::regclass)
      AND right(c.relname, 8)::date + 1 <= today - 35
    ORDER BY c.relname
  LOOP
    EXECUTE format('DROP TABLE ratelimit.%I', leaf);
  END LOOP;
  RETURN true;
EXCEPTION WHEN lock_not_available THEN
  RETURN false;  -- somebody reads for long: the next run tries again
END $$"""

# Rows are locked in the order of the primary keys, the minutes before what is said of them; the job that publishes
# holds the latter while it reads the former, so that what it has not seen is dirty again when it lets go.
_RECORD_USAGE = """CREATE FUNCTION ratelimit.record_usage(replica uuid, batch bigint,
  organizations uuid[], minutes timestamptz[], actor_types text[], actor_ids text[], users text[], routes text[],
  classes text[], calls bigint[], refused bigint[], costs bigint[], refused_costs bigint[], shadow_refused bigint[])
RETURNS timestamptz LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, ratelimit, pg_temp SET timezone = 'UTC' AS $$
#variable_conflict use_column
DECLARE
  moment timestamptz := clock_timestamp();
  this_minute timestamptz := date_trunc('minute', moment);
  day date;
BEGIN
  IF cardinality(organizations) = 0 THEN RETURN moment; END IF;
  INSERT INTO usage_batches AS b VALUES (replica, batch, moment)
    ON CONFLICT (replica) DO UPDATE SET batch = excluded.batch, seen_at = excluded.seen_at
    WHERE b.batch < excluded.batch;
  IF NOT FOUND THEN RETURN clock_timestamp(); END IF;
  FOR day IN
    SELECT DISTINCT least(u.minute, this_minute)::date FROM unnest(minutes) AS u (minute)
    WHERE u.minute > moment - interval '35 days'
  LOOP
    IF to_regclass('ratelimit.usage_events_' || to_char(day, 'YYYYMMDD')) IS NULL THEN
      PERFORM make_usage_day(day);
    END IF;
  END LOOP;

  WITH item AS (
    SELECT i.o, least(date_trunc('minute', i.m), this_minute) AS m, i.t, i.a, i.r, max(i.u) AS u, max(i.c) AS c,
      sum(i.calls)::bigint AS calls, sum(i.refused)::bigint AS refused, sum(i.cost)::bigint AS cost,
      sum(i.refused_cost)::bigint AS refused_cost, sum(i.shadow)::bigint AS shadow
    FROM unnest(organizations, minutes, actor_types, actor_ids, users, routes, classes, calls, refused, costs,
      refused_costs, shadow_refused) AS i (o, m, t, a, u, r, c, calls, refused, cost, refused_cost, shadow)
    WHERE i.m > moment - interval '35 days'
    GROUP BY 1, 2, 3, 4, 5
  ), counted AS (
    INSERT INTO usage_minutes AS r (organization_id, minute, actor_type, actor_id, route, class, user_id, calls,
      refused, cost, refused_cost, shadow_refused)
    SELECT o, m, t, a, r, c, u, calls, refused, cost, refused_cost, shadow FROM item ORDER BY o, m, t, a, r
    ON CONFLICT (organization_id, minute, actor_type, actor_id, route) DO UPDATE SET
      calls = r.calls + excluded.calls, refused = r.refused + excluded.refused, cost = r.cost + excluded.cost,
      refused_cost = r.refused_cost + excluded.refused_cost,
      shadow_refused = r.shadow_refused + excluded.shadow_refused
    RETURNING r.organization_id, r.minute, r.actor_type, r.actor_id
  )
  INSERT INTO usage_events AS e (organization_id, minute, actor_type, actor_id)
  SELECT DISTINCT organization_id, minute, actor_type, actor_id FROM counted ORDER BY 1, 2, 3, 4
  ON CONFLICT (organization_id, minute, actor_type, actor_id) DO UPDATE SET dirty = true WHERE NOT e.dirty;
  RETURN clock_timestamp();
END $$"""

_USAGE_DUE = """CREATE FUNCTION ratelimit.usage_due(grace interval, most integer)
RETURNS TABLE (organization_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, ratelimit, pg_temp AS $$
  SELECT e.organization_id FROM usage_events e
  WHERE e.dirty AND e.minute <= statement_timestamp() - interval '1 minute' - grace
  GROUP BY e.organization_id ORDER BY min(e.minute), e.organization_id LIMIT most
$$"""

# What a policy was while a window ran. What was changed since, a deletion above all, its history tells; the 5 seconds
# are for processes that hear of a change later, and for the clock it is dated by. In shadow, or fast, at any moment
# counts as such for the whole window.
_POLICY_IN_WINDOW = """CREATE FUNCTION ratelimit.policy_in_window(organization uuid, policy uuid, starts timestamptz,
  ends timestamptz) RETURNS TABLE (name text, mode text, shadow boolean)
LANGUAGE sql STABLE AS $$
  SELECT coalesce(p.name, l.name, h.name),
    CASE WHEN h.turned_fast THEN 'fast' ELSE coalesce(h.first_mode, p.mode, l.mode) END,
    coalesce(h.first_shadow = 'true', p.shadow, l.shadow, false) OR coalesce(h.turned_shadow, false)
  FROM (
    SELECT (array_agg(c.policy_name ORDER BY c.occurred_at DESC, c.id DESC))[1] AS name,
      (array_agg(coalesce(c.changes #>> '{mode,before}', c.changes #>> '{mode,after}') ORDER BY c.occurred_at, c.id)
        FILTER (WHERE c.changes -> 'mode' IS NOT NULL))[1] AS first_mode,
      (array_agg(coalesce(c.changes #>> '{shadow,before}', c.changes #>> '{shadow,after}') ORDER BY c.occurred_at, c.id)
        FILTER (WHERE c.changes -> 'shadow' IS NOT NULL))[1] AS first_shadow,
      bool_or(c.changes #>> '{mode,after}' = 'fast') FILTER (WHERE c.occurred_at < ends) AS turned_fast,
      bool_or(c.changes #>> '{shadow,after}' = 'true') FILTER (WHERE c.occurred_at < ends) AS turned_shadow
    FROM ratelimit.policy_changes c
    WHERE c.organization_id = organization AND c.policy_id = policy AND c.occurred_at > starts - interval '5 seconds'
  ) h
  LEFT JOIN ratelimit.policies p ON p.organization_id = organization AND p.id = policy
  LEFT JOIN ratelimit.plan_policies l ON l.id = policy
$$"""

# Each window that ended is counted once, an hour's worth at a time: the watermark moves with the answer. The history
# is read only where it matters.
_AUDIT_COUNTERS = """CREATE FUNCTION ratelimit.audit_counters(grace interval)
RETURNS TABLE (mode text, windows bigint, overshoot bigint, stranded bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, ratelimit, pg_temp AS $$
#variable_conflict use_column
DECLARE
  since timestamptz;
  until timestamptz;
BEGIN
  SELECT audited_until INTO since FROM audit_watermark FOR UPDATE;
  until := least(clock_timestamp() - grace, since + interval '1 hour');
  IF until <= since THEN RETURN; END IF;
  UPDATE audit_watermark SET audited_until = until;
  RETURN QUERY
    SELECT coalesce(w.mode, p.mode, l.mode, 'other'), count(*),
      sum(CASE WHEN w.shadow THEN 0 ELSE greatest(r.admitted - r.highest_quota, 0) END)::bigint,
      sum(greatest(r.used - r.admitted, 0))::bigint
    FROM api_rate_limits r
    LEFT JOIN policies p ON p.organization_id = r.organization_id AND p.id = r.policy_id
    LEFT JOIN plan_policies l ON l.id = r.policy_id
    LEFT JOIN LATERAL (
      SELECT * FROM policy_in_window(r.organization_id, r.policy_id, r.window_start, r.window_end)
      WHERE r.admitted > r.highest_quota OR (p.id IS NULL AND l.id IS NULL)
    ) w ON true
    WHERE r.window_end > since AND r.window_end <= until
    GROUP BY 1;
END $$"""

_RECORD = "record_usage(uuid, bigint, uuid[], timestamptz[], text[], text[], text[], text[], text[], bigint[], bigint[], bigint[], bigint[], bigint[])"
_OWN = (
    "roll_usage()",
    "usage_due(interval, integer)",
    "policy_in_window(uuid, uuid, timestamptz, timestamptz)",
    "audit_counters(interval)",
)


def upgrade() -> None:
    """Make the tables of usage and its first days."""
    statements = [*_TABLES, _MAKE_USAGE_DAY, _ROLL_USAGE, _RECORD_USAGE, _USAGE_DUE]
    statements += [_POLICY_IN_WINDOW, _AUDIT_COUNTERS]
    statements += ddl.protect("ratelimit.usage_minutes", privileges=("SELECT",))
    statements += ddl.protect("ratelimit.usage_events", privileges=("SELECT", "UPDATE"))
    for function in (_RECORD, "make_usage_day(date)", *_OWN):
        statements.append(f"REVOKE ALL ON FUNCTION ratelimit.{function} FROM public")
    statements += [f"GRANT EXECUTE ON FUNCTION ratelimit.{each} TO svc_ratelimit" for each in _OWN]
    for name in ("gateway", "identity", "crm", "audit", "ratelimit"):
        statements.append(f"GRANT EXECUTE ON FUNCTION ratelimit.{_RECORD} TO svc_{name}")
    statements.append("SELECT ratelimit.roll_usage()")
    for statement in statements:
        op.execute(statement)
