"""Keys that sign requests, what an API key asks of its requests, and the nonces that were seen.

Phase: expand.
"""

from alembic import op

from shared.db import ddl

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TABLES = [
    """ALTER TABLE identity.api_keys
  ADD COLUMN signature_policy text NOT NULL DEFAULT 'off' CHECK (signature_policy IN ('off', 'v0', 'both', 'v1')),
  ADD COLUMN sign_answers boolean NOT NULL DEFAULT false,
  ADD CONSTRAINT api_keys_organization_id_id_key UNIQUE (organization_id, id)""",
    # The material is a secret, sealed (shared/vault.py), or the 32 bytes of a public key.
    """CREATE TABLE identity.signing_keys (
  organization_id uuid NOT NULL, id uuid NOT NULL, api_key_id uuid NOT NULL,
  algorithm text NOT NULL CHECK (algorithm IN ('hmac-sha256', 'ed25519')), material bytea NOT NULL,
  rotated_from uuid, created_by uuid NOT NULL, expires_at timestamptz, revoked_at timestamptz,
  version bigint NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
  PRIMARY KEY (organization_id, id),
  FOREIGN KEY (organization_id, api_key_id) REFERENCES identity.api_keys (organization_id, id),
  CHECK (algorithm <> 'ed25519' OR length(material) = 32))""",
    "CREATE INDEX signing_keys_list_idx ON identity.signing_keys (organization_id, api_key_id, created_at, id)",
    # Unlogged: a nonce is worth remembering for minutes, and then a crash of the server loses it. What was signed
    # before `since`, the end of the last crash, may have been seen and is not taken for new.
    """CREATE UNLOGGED TABLE identity.request_nonces (
  signing_key_id uuid, nonce text COLLATE "C", until timestamptz NOT NULL, PRIMARY KEY (signing_key_id, nonce))""",
    """CREATE UNLOGGED TABLE identity.nonce_memory (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), since timestamptz NOT NULL)""",
    "INSERT INTO identity.nonce_memory (since) VALUES (now())",
    # Nonces signed by a clock that goes ahead of ours: `since` cannot tell of them, so they must survive a crash.
    """CREATE TABLE identity.request_nonces_ahead (
  signing_key_id uuid, nonce text COLLATE "C", until timestamptz NOT NULL, PRIMARY KEY (signing_key_id, nonce))""",
]

_RESOLVE_API_KEY = """CREATE FUNCTION identity.resolve_api_key(the_public_id text)
RETURNS TABLE (public_id text, secret_sha256 bytea, organization_id uuid, actor_id text, actor_type text,
  scopes text[], expires_at timestamptz, disabled boolean, on_behalf_of uuid, mode text, signature_policy text,
  sign_answers boolean, signing_keys jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, identity, pg_temp AS $$
  SELECT k.public_id, k.secret_sha256, k.organization_id, k.id::text, 'api_key',
    -- Never more than its creator may do today.
    ARRAY(SELECT s FROM unnest(k.scopes) AS s WHERE s = ANY (r.scopes)),
    least(k.expires_at, k.overlap_ends_at), k.revoked_at IS NOT NULL, k.created_by, k.mode, k.signature_policy,
    k.sign_answers,
    coalesce((
      -- encode() breaks its lines.
      SELECT jsonb_agg(jsonb_build_object('id', g.id, 'algorithm', g.algorithm,
        'material', replace(encode(g.material, 'base64'), chr(10), ''),
        'expires_at', extract(epoch FROM g.expires_at)) ORDER BY g.created_at, g.id)
      FROM signing_keys g WHERE g.organization_id = k.organization_id AND g.api_key_id = k.id
        AND g.revoked_at IS NULL AND (g.expires_at IS NULL OR g.expires_at > now())), '[]')
  FROM api_keys k
  LEFT JOIN memberships m ON m.organization_id = k.organization_id AND m.user_id = k.created_by
  LEFT JOIN roles r ON r.name = m.role
  WHERE k.public_id = the_public_id
$$"""

# As in 0001, and a signing key is told of as the API key it belongs to.
_NOTIFY = """CREATE OR REPLACE FUNCTION identity.notify_credentials() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, identity, pg_temp AS $$
DECLARE
  changed record := coalesce(new, old);
BEGIN
  PERFORM pg_notify('guardian_credentials', CASE tg_table_name
    WHEN 'api_keys' THEN 'key:' || (to_jsonb(changed) ->> 'public_id')
    WHEN 'signing_keys' THEN 'key:' || (
      SELECT k.public_id FROM api_keys k WHERE k.id = (to_jsonb(changed) ->> 'api_key_id')::uuid)
    WHEN 'sessions' THEN 'session:' || substr(to_jsonb(changed) ->> 'token_sha256', 3)
    WHEN 'users' THEN 'user:' || (to_jsonb(changed) ->> 'id')
    WHEN 'memberships' THEN 'user:' || (to_jsonb(changed) ->> 'user_id')
    WHEN 'organizations' THEN 'organization:' || (to_jsonb(changed) ->> 'id')
    ELSE '*' END);
  RETURN NULL;
END $$"""

_TRIGGER = """CREATE TRIGGER notify_changed AFTER INSERT OR UPDATE OR DELETE ON identity.signing_keys
  FOR EACH ROW EXECUTE FUNCTION identity.notify_credentials()"""

# In the order of the arguments: whether the nonce is new, and remembered from now on. Rows are inserted in the order
# of their key, so that of two calls one waits for the other and never both.
_REMEMBER_NONCES = """CREATE FUNCTION identity.remember_nonces(keys uuid[], nonces text[], created float8[],
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
  SELECT array_agg(f.place IS NOT NULL ORDER BY a.place) INTO answers FROM asked a LEFT JOIN fresh f USING (place);
  RETURN coalesce(answers, '{}');
END $$"""

# The minute more is for clocks of gateways that are behind the database's.
_FORGET_NONCES = """CREATE FUNCTION identity.forget_nonces() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, identity, pg_temp AS $$
  DELETE FROM request_nonces WHERE until < now() - interval '60 seconds';
  DELETE FROM request_nonces_ahead WHERE until < now() - interval '60 seconds';
$$"""

_CALLERS = {
    "resolve_api_key(text)": "svc_gateway",
    "remember_nonces(uuid[], text[], float8[], float8[])": "svc_gateway",
    "forget_nonces()": "svc_identity",
}


def upgrade() -> None:
    """Make the tables; ask and tell about them where credentials are asked and told about."""
    statements = [*_TABLES, *ddl.protect("identity.signing_keys", privileges=("SELECT", "INSERT", "UPDATE"))]
    # More columns are another return type, which CREATE OR REPLACE refuses; a gateway of before asks for its own.
    statements += ["DROP FUNCTION identity.resolve_api_key(text)", _RESOLVE_API_KEY]
    statements += [_NOTIFY, _TRIGGER, _REMEMBER_NONCES, _FORGET_NONCES]
    for function, caller in _CALLERS.items():
        statements += [
            f"REVOKE ALL ON FUNCTION identity.{function} FROM public",
            f"GRANT EXECUTE ON FUNCTION identity.{function} TO {caller}",
        ]
    for statement in statements:
        op.execute(statement)
