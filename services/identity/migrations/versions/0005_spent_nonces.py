"""Signatures that were good for more than one sending, until their request was refused for good.

Phase: expand.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Logged, unlike those of all requests: few requests are refused, and a crash must not make what was refused good again.
_TABLE = """CREATE TABLE identity.request_nonces_spent (
  signing_key_id uuid, nonce text COLLATE "C", until timestamptz NOT NULL, PRIMARY KEY (signing_key_id, nonce))"""

_SPEND_NONCE = """CREATE FUNCTION identity.spend_nonce(key uuid, spent text, until float8) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, identity, pg_temp AS $$
  INSERT INTO request_nonces_spent VALUES (key, spent, to_timestamp(until)) ON CONFLICT DO NOTHING
$$"""

_IS_NONCE_SPENT = """CREATE FUNCTION identity.is_nonce_spent(key uuid, asked text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, identity, pg_temp AS $$
  SELECT EXISTS (SELECT FROM request_nonces_spent s WHERE s.signing_key_id = key AND s.nonce = asked)
$$"""

_FORGET_NONCES = """CREATE OR REPLACE FUNCTION identity.forget_nonces() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, identity, pg_temp AS $$
  DELETE FROM request_nonces WHERE until < now() - interval '60 seconds';
  DELETE FROM request_nonces_ahead WHERE until < now() - interval '60 seconds';
  DELETE FROM request_nonces_spent WHERE until < now() - interval '60 seconds';
$$"""


def upgrade() -> None:
    """Make the table, and let gateways write to it and ask it."""
    for statement in (_TABLE, _SPEND_NONCE, _IS_NONCE_SPENT, _FORGET_NONCES):
        op.execute(statement)
    for function in ("spend_nonce(uuid, text, float8)", "is_nonce_spent(uuid, text)"):
        op.execute(f"REVOKE ALL ON FUNCTION identity.{function} FROM public")
        op.execute(f"GRANT EXECUTE ON FUNCTION identity.{function} TO svc_gateway")
