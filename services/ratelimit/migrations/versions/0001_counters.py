"""What was debited in each window: the truth every limit is decided by, and the functions that change it.

Phase: expand.

``check_rate_limit`` grants units to a process before it may spend them, so that the sum of what all processes
admit never passes the quota. ``hold_slots`` does the same for calls that run at the same time. Both are described
in docs/adr/0018; both lock their rows in the order of the primary key, once, so that two calls never wait for
each other in a circle.
"""

from alembic import op

from shared.db import ddl
from shared.events.schema import system_tables_ddl

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = [
    # used: debited, whether it was spent or not. admitted: what the processes say they have spent of it; what was taken
    # back may be said before it is said that it was spent. refused: somebody did not get what was needed, and wants to
    # hear of units that come back.
    # Updates never touch an index, so that they stay on their page (HOT).
    """CREATE TABLE ratelimit.api_rate_limits (
  organization_id uuid NOT NULL, policy_id uuid NOT NULL, epoch integer NOT NULL, subject text COLLATE "C" NOT NULL,
  window_start timestamptz NOT NULL, window_end timestamptz NOT NULL,
  used bigint NOT NULL DEFAULT 0, admitted bigint NOT NULL DEFAULT 0,
  quota bigint NOT NULL, highest_quota bigint NOT NULL,
  leased_until timestamptz NOT NULL DEFAULT '-infinity', recalled_at timestamptz NOT NULL DEFAULT '-infinity',
  refused boolean NOT NULL DEFAULT false,
  PRIMARY KEY (organization_id, policy_id, epoch, subject, window_start),
  CHECK (used >= 0 AND octet_length(subject) BETWEEN 1 AND 512)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05)""",
    """CREATE TABLE ratelimit.concurrency_slots (
  organization_id uuid NOT NULL, policy_id uuid NOT NULL, epoch integer NOT NULL, subject text COLLATE "C" NOT NULL,
  replica uuid NOT NULL, slots bigint NOT NULL, expires_at timestamptz NOT NULL, statement bigint NOT NULL,
  PRIMARY KEY (organization_id, policy_id, epoch, subject, replica),
  CHECK (slots >= 0)
) WITH (fillfactor = 60)""",
    # Lost in a crash of the server, and filled again within a second: it only sizes leases.
    """CREATE UNLOGGED TABLE ratelimit.replicas (
  id uuid PRIMARY KEY, seen_at timestamptz NOT NULL) WITH (fillfactor = 50)""",
]

# Windows of a second, a minute, an hour are UTC's; a day and a month begin at midnight of their zone. Where a clock
# change skips midnight PostgreSQL takes the moment after the gap; where midnight comes twice it takes the second
# one, and until then it is still the day before.
_WINDOW_OF = """CREATE FUNCTION ratelimit.window_of(period text, zone text, moment timestamptz,
  OUT starts timestamptz, OUT ends timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  step interval := ('1 ' || period)::interval;
  local timestamp;
BEGIN
  IF period IN ('second', 'minute', 'hour') THEN
    starts := date_trunc(period, moment);
    ends := starts + step;
    RETURN;
  END IF;
  local := date_trunc(period, moment AT TIME ZONE zone);
  IF local AT TIME ZONE zone > moment THEN local := local - step; END IF;
  IF (local + step) AT TIME ZONE zone <= moment THEN local := local + step; END IF;
  starts := local AT TIME ZONE zone;
  ends := (local + step) AT TIME ZONE zone;
END $$"""

# settled: the window (unix seconds) that spent and unused units belong to; -1 the current one, 0 nothing to settle.
# A negative number of unused units is what was spent on credit.
_CHECK_RATE_LIMIT = """CREATE FUNCTION ratelimit.check_rate_limit(replica uuid,
  organizations uuid[], policies uuid[], epochs integer[], subjects text[],
  periods text[], zones text[], quotas bigint[], needs bigint[], wants bigint[],
  settled bigint[], spent bigint[], unused bigint[])
RETURNS TABLE (item integer, granted bigint, remaining bigint, window_start bigint, resets_in double precision,
  lease_seconds double precision, outstanding boolean, replicas integer)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, ratelimit, pg_temp
-- One by one through the index, in the order of the items: so that two calls lock in the same order.
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  moment timestamptz := clock_timestamp();
  live integer;
  starts timestamptz[];
  ends timestamptz[];
BEGIN
  live := ratelimit.live_replicas(replica, moment);
  SELECT array_agg(w.starts ORDER BY i.nth), array_agg(w.ends ORDER BY i.nth) INTO starts, ends
    FROM unnest(periods, zones) WITH ORDINALITY AS i (period, zone, nth)
    JOIN (SELECT d.period, d.zone, o.starts, o.ends
          FROM (SELECT DISTINCT u.period, u.zone FROM unnest(periods, zones) AS u (period, zone)) d,
               LATERAL window_of(d.period, d.zone, moment) o) w
      ON w.period = i.period AND w.zone = i.zone;

  -- Who has units of the present window to settle, other than on credit, has had them of its row: it is there.
  INSERT INTO api_rate_limits AS r
    (organization_id, policy_id, epoch, subject, window_start, window_end, quota, highest_quota)
  SELECT i.o, i.p, i.e, i.s, i.starts, i.ends, i.q, i.q
    FROM unnest(organizations, policies, epochs, subjects, starts, ends, quotas, wants, settled, spent, unused)
      AS i (o, p, e, s, starts, ends, q, want, settles, spent, unused)
    WHERE i.want > 0 AND (to_timestamp(i.settles) <> i.starts OR i.unused < 0 OR i.spent + i.unused = 0)
      AND NOT EXISTS (SELECT FROM api_rate_limits r WHERE r.organization_id = i.o
        AND r.policy_id = i.p AND r.epoch = i.e AND r.subject = i.s AND r.window_start = i.starts)
    ORDER BY i.o, i.p, i.e, i.s, i.starts
    ON CONFLICT DO NOTHING;

  RETURN QUERY
  WITH item AS (
    SELECT i.*, CASE settles WHEN 0 THEN NULL WHEN -1 THEN starts ELSE to_timestamp(settles) END AS settles_at
    FROM unnest(organizations, policies, epochs, subjects, starts, ends, quotas, needs, wants, settled, spent, unused)
      WITH ORDINALITY AS i (o, p, e, s, starts, ends, quota, need, want, settles, spent, unused, nth)
  ), part AS MATERIALIZED (
    -- What is settled may belong to an earlier window than what is asked for: then it is a row of its own.
    SELECT o, p, e, s, at, max(ends) AS ends, max(quota) AS quota, sum(need)::bigint AS need, sum(want)::bigint AS want,
      max(place)::integer AS place, sum(spent)::bigint AS spent, sum(unused)::bigint AS unused
    FROM (
      SELECT o, p, e, s, starts AS at, ends, quota, need, want, nth AS place, 0 AS spent, 0 AS unused
      FROM item WHERE want > 0
      UNION ALL
      SELECT o, p, e, s, settles_at, NULL, NULL, 0, 0, NULL, spent, unused
      FROM item WHERE spent <> 0 OR unused <> 0
    ) both_parts GROUP BY o, p, e, s, at ORDER BY o, p, e, s, at
  ), changed AS (
    UPDATE api_rate_limits r SET
      used = grant_units(r.used - part.unused, part.quota, part.need, part.want, live),
      admitted = r.admitted + part.spent,
      quota = coalesce(part.quota, r.quota), highest_quota = greatest(part.quota, r.highest_quota),
      leased_until = CASE WHEN part.want > 0 AND part.quota > r.used - part.unused
        THEN greatest(r.leased_until, moment + lease_of(part.at, part.ends)) ELSE r.leased_until END,
      recalled_at = CASE WHEN part.quota - greatest(r.used - part.unused, 0) < part.need
          AND r.leased_until > moment AND r.recalled_at < moment - interval '100 milliseconds'
          AND greatest(r.used - part.unused, least(part.quota, r.used)) > r.admitted + part.spent
        THEN moment ELSE r.recalled_at END,
      refused = CASE WHEN part.quota - greatest(r.used - part.unused, 0) < part.need THEN true
        ELSE r.refused AND part.unused <= 0 END
    FROM part
    WHERE r.organization_id = part.o AND r.policy_id = part.p AND r.epoch = part.e AND r.subject = part.s
      AND r.window_start = part.at
    RETURNING part.place, part.need, part.want, part.at, part.ends, part.quota - new.used AS remaining,
      new.used - greatest(old.used - part.unused, 0) AS grants,
      old.leased_until > moment AND new.used > new.admitted AS owed,
      CASE WHEN new.recalled_at = moment THEN pg_notify('guardian_limits',
        'recall:' || part.o || '/' || part.p || '/' || part.e || '/' || part.s)::text END,
      CASE WHEN old.refused AND new.used < old.used THEN pg_notify('guardian_limits',
        'freed:' || part.o || '/' || part.p || '/' || part.e || '/' || part.s)::text END
  )
  SELECT place, grants, greatest(remaining, 0), extract(epoch FROM at)::bigint,
    extract(epoch FROM ends - moment)::double precision,
    extract(epoch FROM lease_of(at, ends))::double precision, grants < need AND owed, live
  FROM changed WHERE want > 0;
END $$"""

# What is debited after a grant: nothing beyond the quota, what is needed as far as it goes, and of what is wanted
# besides a 2N-th part of what is then left, so that the last units go out one by one.
_GRANT_UNITS = """CREATE FUNCTION ratelimit.grant_units(
  debited bigint, quota bigint, need bigint, want bigint, live integer) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
  SELECT greatest(debited, 0) + CASE WHEN want > 0 THEN least(greatest(quota - greatest(debited, 0), 0),
    need + least(want - need, greatest(quota - greatest(debited, 0) - need, 0) / (2 * live))) ELSE 0 END
$$"""

_LEASE_OF = """CREATE FUNCTION ratelimit.lease_of(starts timestamptz, ends timestamptz) RETURNS interval
LANGUAGE sql IMMUTABLE AS $$ SELECT least((ends - starts) / 4, interval '10 seconds') $$"""

_LIVE_REPLICAS = """CREATE FUNCTION ratelimit.live_replicas(replica uuid, moment timestamptz) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, ratelimit, pg_temp AS $$
BEGIN
  INSERT INTO replicas AS r VALUES (replica, moment)
    ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at WHERE r.seen_at < excluded.seen_at - interval '1 second';
  RETURN (SELECT greatest(count(*), 1) FROM replicas r WHERE r.seen_at > moment - interval '5 seconds');
END $$"""

# Stating the whole number held makes a repeated or lost call harmless; what a dead process held ends with its time.
# Statements are numbered by their process, because one that was given up may still be carried out after the next.
_HOLD_SLOTS = """CREATE FUNCTION ratelimit.hold_slots(replica uuid, organizations uuid[], policies uuid[],
  epochs integer[], subjects text[], quotas bigint[], needs bigint[], wants bigint[], seconds double precision, statement bigint)
RETURNS TABLE (item integer, held bigint, remaining bigint, replicas integer)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, ratelimit, pg_temp AS $$
#variable_conflict use_column
DECLARE
  moment timestamptz := clock_timestamp();
  live integer;
  one record;
  others bigint;
  recalls boolean;
BEGIN
  live := ratelimit.live_replicas(replica, moment);
  FOR one IN
    SELECT * FROM unnest(organizations, policies, epochs, subjects, quotas, needs, wants) WITH ORDINALITY
      AS i (o, p, e, s, quota, need, want, nth) ORDER BY o, p, e, s
  LOOP
    -- The row of the policy itself (its window is all of time) is what holders wait for each other on.
    INSERT INTO api_rate_limits AS r
      (organization_id, policy_id, epoch, subject, window_start, window_end, quota, highest_quota)
      VALUES (one.o, one.p, one.e, one.s, '-infinity', 'infinity', one.quota, one.quota)
      ON CONFLICT (organization_id, policy_id, epoch, subject, window_start)
      DO UPDATE SET quota = excluded.quota, highest_quota = greatest(r.highest_quota, excluded.quota);
    moment := clock_timestamp();
    SELECT coalesce(sum(c.slots), 0) INTO others FROM concurrency_slots c
      WHERE c.organization_id = one.o AND c.policy_id = one.p AND c.epoch = one.e AND c.subject = one.s
        AND c.replica <> hold_slots.replica AND c.expires_at > moment;
    held := least(one.want, greatest(one.quota - others, 0));
    IF one.want > one.need THEN
      held := least(held, greatest(one.need, (one.quota - others) / (2 * live)));
    END IF;
    INSERT INTO concurrency_slots AS c VALUES
      (one.o, one.p, one.e, one.s, replica, held, moment + make_interval(secs => seconds), hold_slots.statement)
      ON CONFLICT (organization_id, policy_id, epoch, subject, replica)
      DO UPDATE SET slots = excluded.slots, expires_at = excluded.expires_at, statement = excluded.statement
      WHERE c.statement < excluded.statement;
    UPDATE api_rate_limits r SET used = others + held, recalled_at = CASE
        WHEN held < one.need AND others > 0 AND r.recalled_at < moment - interval '100 milliseconds' THEN moment
        ELSE r.recalled_at END
      WHERE r.organization_id = one.o AND r.policy_id = one.p AND r.epoch = one.e AND r.subject = one.s
        AND r.window_start = '-infinity'
      RETURNING r.recalled_at = moment INTO recalls;
    IF recalls THEN
      PERFORM pg_notify('guardian_limits', 'recall:' || one.o || '/' || one.p || '/' || one.e || '/' || one.s);
    END IF;
    item := one.nth; remaining := greatest(one.quota - others - held, 0); replicas := live;
    RETURN NEXT;
  END LOOP;
END $$"""

_PURGE = """CREATE FUNCTION ratelimit.purge_counters(kept interval) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, ratelimit, pg_temp AS $$
  DELETE FROM replicas WHERE seen_at < clock_timestamp() - interval '1 day';
  DELETE FROM concurrency_slots WHERE expires_at < clock_timestamp() - interval '1 hour';
  -- The row that holders of slots wait for each other on; the next one makes it again.
  WITH idle AS (
    SELECT r.ctid FROM api_rate_limits r WHERE r.window_start = '-infinity' AND NOT EXISTS (
      SELECT FROM concurrency_slots c WHERE c.organization_id = r.organization_id AND c.policy_id = r.policy_id
        AND c.epoch = r.epoch AND c.subject = r.subject)
    LIMIT 10000 FOR UPDATE SKIP LOCKED
  )
  DELETE FROM api_rate_limits r USING idle WHERE r.ctid = idle.ctid;
  WITH old AS (
    SELECT ctid FROM api_rate_limits WHERE window_end < clock_timestamp() - kept LIMIT 10000 FOR UPDATE SKIP LOCKED
  ), gone AS (
    DELETE FROM api_rate_limits r USING old WHERE r.ctid = old.ctid RETURNING 1
  )
  SELECT count(*) FROM gone
$$"""

_METERING = ("gateway", "identity", "crm", "audit", "ratelimit")
"""Who meters: their roles may call the two functions and read no table."""

_CHECK = (
    "check_rate_limit(uuid, uuid[], uuid[], integer[], text[], text[], text[], bigint[], bigint[], bigint[], "
    "bigint[], bigint[], bigint[])"
)
_HOLD = "hold_slots(uuid, uuid[], uuid[], integer[], text[], bigint[], bigint[], bigint[], double precision, bigint)"


def upgrade() -> None:
    """Make the counters."""
    statements = [*_TABLES, _WINDOW_OF, _GRANT_UNITS, _LEASE_OF, _LIVE_REPLICAS, _CHECK_RATE_LIMIT, _HOLD_SLOTS, _PURGE]
    statements += ddl.protect("ratelimit.api_rate_limits", privileges=("SELECT",))
    statements += ddl.protect("ratelimit.concurrency_slots", privileges=("SELECT",))
    for function in (_CHECK, _HOLD, "live_replicas(uuid, timestamptz)", "purge_counters(interval)"):
        statements.append(f"REVOKE ALL ON FUNCTION ratelimit.{function} FROM public")
    statements.append("GRANT EXECUTE ON FUNCTION ratelimit.purge_counters(interval) TO svc_ratelimit")
    for name in _METERING:
        statements.append(f"GRANT USAGE ON SCHEMA ratelimit TO svc_{name}")
        statements += [f"GRANT EXECUTE ON FUNCTION ratelimit.{each} TO svc_{name}" for each in (_CHECK, _HOLD)]
    statements += system_tables_ddl("ratelimit")
    for statement in statements:
        op.execute(statement)
