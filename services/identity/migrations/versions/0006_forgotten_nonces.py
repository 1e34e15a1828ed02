"""Of a signature from before a crash nobody can say whether it was used; it was called used.

Phase: expand.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# As before, and NULL for what was signed before the memory begins. A gateway of before takes that for false.
_REMEMBER_NONCES = """CREATE OR REPLACE FUNCTION identity.remember_nonces(keys uuid[], nonces text[], created float8[],
  untils float8[]) RETURNS boolean[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, identity, pg_temp AS $$
DECLARE
  begun timestamptz;
  answers boolean[];
BEGIN
  SELECT m.since INTO begun FROM nonce_memory m;
  IF begun IS NULL THEN
    INSERT INTO nonce_memory (since) VALUES (clock_timestamp()) ON CONFLICT DO NOTHING;
    SELECT m.since INTO begun FROM nonce_memory m;
  END IF;
  WITH asked AS (
    SELECT a.key, a.nonce, to_timestamp(a.signed) AS signed, to_timestamp(a.ends) AS ends, a.place
      FROM unnest(keys, nonces, created, untils) WITH ORDINALITY AS a (key, nonce, signed, ends, place)
  ), candidate AS (
    SELECT DISTINCT ON (a.key, a.nonce COLLATE "C") a.* FROM asked a
    WHERE a.signed >= begun AND NOT EXISTS (
      SELECT FROM request_nonces_ahead h WHERE h.signing_key_id = a.key AND h.nonce = a.nonce)
    ORDER BY a.key, a.nonce COLLATE "C", a.place
  ), remembered AS (
    INSERT INTO request_nonces (signing_key_id, nonce, until)
      SELECT c.key, c.nonce, c.ends FROM candidate c ORDER BY c.key, c.nonce COLLATE "C"
      ON CONFLICT DO NOTHING RETURNING signing_key_id, nonce
  ), fresh AS (
    SELECT c.* FROM candidate c JOIN remembered r ON r.signing_key_id = c.key AND r.nonce = c.nonce
  ), ahead AS (
    INSERT INTO request_nonces_ahead (signing_key_id, nonce, until)
      SELECT f.key, f.nonce, f.ends FROM fresh f WHERE f.signed > clock_timestamp()
  )
  SELECT array_agg(CASE WHEN a.signed >= begun THEN f.place IS NOT NULL END ORDER BY a.place) INTO answers
    FROM asked a LEFT JOIN fresh f USING (place);
  RETURN coalesce(answers, '{}');
END $$"""


def upgrade() -> None:
    """Say what is not known; who may ask stays as it is."""
    op.execute(_REMEMBER_NONCES)
