-- The schema "bus": a log of events, the heads of its partitions, consumer groups' cursors and members.
-- Run by "guardian migrate" as the schema's owner; every statement may be run again.

DO $$ BEGIN IF to_regnamespace('bus') IS NULL THEN CREATE SCHEMA bus; END IF; END $$;

CREATE TABLE IF NOT EXISTS bus.log (
  topic text COLLATE "C" NOT NULL,
  partition integer NOT NULL,
  position bigint NOT NULL,
  id uuid NOT NULL,
  organization_id uuid NOT NULL,
  type text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  envelope json NOT NULL,
  recorded_at timestamptz NOT NULL,
  PRIMARY KEY (topic, partition, position)
);

CREATE TABLE IF NOT EXISTS bus.head (
  topic text COLLATE "C" NOT NULL,
  partition integer NOT NULL,
  position bigint NOT NULL,
  PRIMARY KEY (topic, partition)
) WITH (fillfactor = 25);

CREATE TABLE IF NOT EXISTS bus.cursor (
  consumer_group text COLLATE "C" NOT NULL,
  topic text COLLATE "C" NOT NULL,
  partition integer NOT NULL,
  position bigint NOT NULL,
  owner uuid,
  epoch bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (consumer_group, topic, partition)
) WITH (fillfactor = 25);

CREATE TABLE IF NOT EXISTS bus.member (
  consumer_group text COLLATE "C" NOT NULL,
  member uuid NOT NULL,
  topics text[] NOT NULL,
  lease_until timestamptz NOT NULL,
  PRIMARY KEY (consumer_group, member)
) WITH (fillfactor = 25);

-- A service keeps the cursors of its own groups (<service> or <service>.<name>) and cannot move another one's.
ALTER TABLE bus.cursor ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own_groups ON bus.cursor;
CREATE POLICY own_groups ON bus.cursor USING (split_part(consumer_group, '.', 1) = substr(current_user, 5));
ALTER TABLE bus.member ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own_groups ON bus.member;
CREATE POLICY own_groups ON bus.member USING (split_part(consumer_group, '.', 1) = substr(current_user, 5));

CREATE OR REPLACE FUNCTION bus.position_at(the_topic text, the_partition integer, moment timestamptz)
RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT coalesce(
    (SELECT l.position FROM bus.log l WHERE l.topic = the_topic AND l.partition = the_partition
       AND l.recorded_at >= moment ORDER BY l.position LIMIT 1),
    (SELECT h.position FROM bus.head h WHERE h.topic = the_topic AND h.partition = the_partition), 0)
$$;

-- Bytes of an envelope, without unpacking what was not packed: batches are bounded by bytes, too.
CREATE OR REPLACE FUNCTION bus.size(envelope json) RETURNS integer LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN pg_column_compression(envelope) IS NULL THEN pg_column_size(envelope)
    ELSE octet_length(envelope::text) END
$$;

CREATE OR REPLACE FUNCTION bus.append(
  the_topic text, ids uuid[], organizations uuid[], types text[], keys text[], partitions integer[], envelopes json[]
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, bus, pg_temp AS $$
BEGIN
  IF session_user <> 'svc_' || split_part(the_topic, '.', 2) AND NOT pg_has_role(session_user, current_user, 'MEMBER')
  THEN RAISE insufficient_privilege USING MESSAGE = format('%s may not append to %s', session_user, the_topic);
  END IF;
  -- The head rows are locked in the order of their partition; whoever holds them is the one appender, so
  -- that positions have no gaps and become visible in their order.
  WITH counted AS (
    SELECT p AS partition, count(*) AS added FROM unnest(partitions) AS p GROUP BY p ORDER BY p
  ), heads AS (
    INSERT INTO head AS h (topic, partition, position)
    SELECT the_topic, c.partition, c.added FROM counted c ORDER BY c.partition
    ON CONFLICT (topic, partition) DO UPDATE SET position = h.position + excluded.position
    RETURNING h.partition, h.position
  )
  INSERT INTO log (topic, partition, position, id, organization_id, type, key, envelope, recorded_at)
  SELECT the_topic, e.partition,
         h.position - c.added + row_number() OVER (PARTITION BY e.partition ORDER BY e.nth) - 1,
         e.id, e.organization_id, e.type, e.key, e.envelope, clock_timestamp()
  FROM unnest(ids, organizations, types, keys, partitions, envelopes)
       WITH ORDINALITY AS e (id, organization_id, type, key, partition, envelope, nth)
  JOIN counted c ON c.partition = e.partition
  JOIN heads h ON h.partition = e.partition;
  RETURN cardinality(ids);
END $$;

CREATE OR REPLACE FUNCTION bus.prune(the_topic text, older_than timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, bus, pg_temp SET enable_seqscan = off AS $$
DECLARE
  removed bigint;
BEGIN
  IF session_user <> 'svc_' || split_part(the_topic, '.', 2) AND NOT pg_has_role(session_user, current_user, 'MEMBER')
  THEN RAISE insufficient_privilege USING MESSAGE = format('%s may not prune %s', session_user, the_topic);
  END IF;
  -- What a group has not consumed yet stays, however old it is: a stopped consumer loses nothing. A call takes
  -- the oldest thousand of each partition at most, so that it ends in time however much has gathered.
  WITH bounds AS (
    SELECT h.partition, o.first, least(o.first + 1000, min(c.position)) AS below
    FROM head h CROSS JOIN LATERAL (
      SELECT l.position AS first FROM log l WHERE l.topic = h.topic AND l.partition = h.partition
      ORDER BY l.position LIMIT 1
    ) o LEFT JOIN cursor c ON c.topic = h.topic AND c.partition = h.partition
    WHERE h.topic = the_topic GROUP BY h.partition, o.first
  )
  DELETE FROM log l USING bounds b
  WHERE l.topic = the_topic AND l.partition = b.partition AND l.position >= b.first AND l.position < b.below
    AND l.recorded_at < older_than;
  GET DIAGNOSTICS removed = ROW_COUNT;
  RETURN removed;
END $$;

CREATE OR REPLACE FUNCTION bus.enroll(the_group text, topics text[], partitions integer, from_start boolean)
RETURNS void LANGUAGE sql AS $$
  INSERT INTO bus.cursor (consumer_group, topic, partition, position)
  SELECT the_group, t, p, CASE WHEN from_start THEN 0 ELSE coalesce(h.position, 0) END
  FROM unnest(topics) AS t CROSS JOIN generate_series(0, partitions - 1) AS p
  LEFT JOIN bus.head h ON h.topic = t AND h.partition = p
  ON CONFLICT DO NOTHING
$$;

CREATE OR REPLACE FUNCTION bus.join(
  the_group text, me uuid, my_topics text[], lease interval, may_release boolean
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  surplus bigint;
  mine text[];
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  INSERT INTO bus.member AS m (consumer_group, member, topics, lease_until)
  VALUES (the_group, me, my_topics, clock_timestamp() + lease)
  ON CONFLICT (consumer_group, member) DO UPDATE SET topics = excluded.topics, lease_until = excluded.lease_until;
  DELETE FROM bus.member WHERE consumer_group = the_group AND lease_until < clock_timestamp() - interval '1 minute';
  -- Everyone computes the same seats from the same live members: partition % seats is the owner's seat.
  SELECT coalesce(array_agg(c.topic || '/' || c.partition), '{}') INTO mine
  FROM bus.cursor c JOIN (
    SELECT t.topic, l.member, row_number() OVER by_topic - 1 AS seat, count(*) OVER (PARTITION BY t.topic) AS seats
    FROM bus.member l CROSS JOIN unnest(l.topics) AS t (topic)
    WHERE l.consumer_group = the_group AND l.lease_until > clock_timestamp()
    WINDOW by_topic AS (PARTITION BY t.topic ORDER BY l.member)
  ) s ON s.topic = c.topic AND c.partition % s.seats = s.seat
  WHERE c.consumer_group = the_group AND s.member = me;
  UPDATE bus.cursor c SET owner = me, epoch = c.epoch + 1
  WHERE c.consumer_group = the_group AND c.topic || '/' || c.partition = ANY (mine)
    AND c.owner IS DISTINCT FROM me
    AND NOT EXISTS (SELECT FROM bus.member b WHERE b.consumer_group = the_group AND b.member = c.owner
                    AND b.lease_until > clock_timestamp());
  IF may_release THEN
    UPDATE bus.cursor c SET owner = NULL
    WHERE c.consumer_group = the_group AND c.owner = me AND c.topic || '/' || c.partition <> ALL (mine);
    RETURN 0;
  END IF;
  SELECT count(*) INTO surplus FROM bus.cursor c
  WHERE c.consumer_group = the_group AND c.owner = me AND c.topic || '/' || c.partition <> ALL (mine);
  RETURN surplus;
END $$;

CREATE OR REPLACE FUNCTION bus.relay(
  the_topic text, the_lease text, me uuid, my_epoch bigint, at_most integer, with_traces boolean,
  OUT moved bigint, OUT traces text[]
) LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
  -- Losing this commit in a crash loses nothing: the rows are in the outbox again, and whatever was done
  -- with the log entries stands later in the WAL, so it is lost with them or not at all.
  PERFORM set_config('synchronous_commit', 'off', true);
  -- outbox and leases are those of the caller's schema (its search_path). The lease row stays locked until
  -- the commit, so that whoever takes the lease over waits for this batch.
  PERFORM FROM leases WHERE name = the_lease AND owner = me AND epoch = my_epoch FOR UPDATE;
  IF NOT FOUND THEN moved := -1; RETURN; END IF;
  WITH batch AS (
    SELECT seq, sum(bus.size(envelope)) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) - bus.size(envelope) AS before
    FROM outbox ORDER BY seq LIMIT at_most
  ), taken AS (DELETE FROM outbox WHERE seq <= (SELECT max(seq) FROM batch WHERE before < 8000000) RETURNING *)
  SELECT bus.append(the_topic, array_agg(id ORDER BY seq), array_agg(organization_id ORDER BY seq),
                    array_agg(type ORDER BY seq), array_agg(key ORDER BY seq),
                    array_agg(partition ORDER BY seq), array_agg(envelope ORDER BY seq)),
         -- The text is searched first (trace and span have 49 characters): only a sampled event is parsed.
         array_agg(envelope ->> 'traceparent' ORDER BY seq) FILTER (
           WHERE with_traces AND envelope::text LIKE '%"traceparent":"00-' || repeat('_', 49) || '-01"%'
             AND envelope ->> 'traceparent' LIKE '%-01')
  INTO moved, traces FROM taken HAVING count(*) > 0;
  moved := coalesce(moved, 0);
END $$;

CREATE OR REPLACE FUNCTION bus.fetch(the_group text, me uuid, at_most integer)
RETURNS TABLE (topic text, partition integer, "position" bigint, key text, envelope text, epoch bigint)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  share integer;
  bytes bigint;  -- of one partition, 8 MB of all; the first event always comes
BEGIN
  SELECT greatest(at_most / greatest(count(*), 1), 1), 8000000 / greatest(count(*), 1) INTO share, bytes
  FROM bus.cursor c JOIN bus.head h ON h.topic = c.topic AND h.partition = c.partition
  WHERE c.consumer_group = the_group AND c.owner = me AND h.position > c.position;
  RETURN QUERY SELECT c.topic, c.partition, e.position, e.key, e.envelope::text, c.epoch
  FROM bus.cursor c JOIN bus.head h ON h.topic = c.topic AND h.partition = c.partition
  CROSS JOIN LATERAL (
    SELECT l.position, l.key, l.envelope,
      sum(bus.size(l.envelope)) OVER (ORDER BY l.position ROWS UNBOUNDED PRECEDING) - bus.size(l.envelope) AS before
    FROM bus.log l
    WHERE l.topic = c.topic AND l.partition = c.partition AND l.position >= c.position
    ORDER BY l.position LIMIT share
  ) e
  WHERE c.consumer_group = the_group AND c.owner = me AND h.position > c.position AND e.before < bytes
  LIMIT at_most;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA bus FROM public;
