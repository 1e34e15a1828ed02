"""Organisations, users, memberships, sessions, invitations, tokens, API keys, mails.

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

# With later migrations as services.identity.domain.ROLES (a test compares): a new scope comes with one of its own.
_CRM_READ = "contacts:read companies:read deals:read activities:read pipelines:read custom_fields:read"
_CRM_WRITE = "contacts:write companies:write deals:write activities:write pipelines:write custom_fields:write"
_DIRECTORY = "members:read organization:read health:read"
_ADMINISTRATION = (
    "audit:read audit:write members:write invitations:read invitations:write api_keys:read api_keys:write"
    " organization:write"
)
_ROLES = {
    "owner": f"{_CRM_READ} {_CRM_WRITE} {_DIRECTORY} {_ADMINISTRATION}",
    "admin": f"{_CRM_READ} {_CRM_WRITE} {_DIRECTORY} {_ADMINISTRATION}",
    "member": f"{_CRM_READ} {_CRM_WRITE} {_DIRECTORY}",
    "viewer": f"{_CRM_READ} {_DIRECTORY}",
}

_TABLES = [
    "CREATE TABLE identity.roles (name text PRIMARY KEY, scopes text[] NOT NULL)",
    """CREATE TABLE identity.organizations (
  id uuid PRIMARY KEY, name text NOT NULL,
  data_region text NOT NULL CHECK (data_region IN ('eu', 'us', 'ap')),
  version bigint NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL)""",
    # The address is lower-cased by the input models; the check catches a path that forgot.
    """CREATE TABLE identity.users (
  id uuid PRIMARY KEY, email text NOT NULL UNIQUE CHECK (email !~ '[A-Z]'), name text NOT NULL,
  password_hash text NOT NULL, email_verified_at timestamptz,
  event_sequence bigint NOT NULL, version bigint NOT NULL,
  created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL)""",
    """CREATE TABLE identity.memberships (
  id uuid PRIMARY KEY,
  organization_id uuid NOT NULL REFERENCES identity.organizations, user_id uuid NOT NULL REFERENCES identity.users,
  role text NOT NULL REFERENCES identity.roles, version bigint NOT NULL,
  created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
  UNIQUE (organization_id, user_id))""",
    "CREATE INDEX memberships_user_id_idx ON identity.memberships (user_id)",
    "CREATE INDEX memberships_list_idx ON identity.memberships (organization_id, created_at, id)",
    """CREATE TABLE identity.sessions (
  id uuid PRIMARY KEY, token_sha256 bytea NOT NULL UNIQUE CHECK (length(token_sha256) = 32),
  user_id uuid NOT NULL REFERENCES identity.users, organization_id uuid REFERENCES identity.organizations,
  user_agent text, client_address text, authenticated_at timestamptz NOT NULL, created_at timestamptz NOT NULL,
  last_seen_at timestamptz NOT NULL, expires_at timestamptz NOT NULL)""",
    "CREATE INDEX sessions_list_idx ON identity.sessions (user_id, created_at, id)",
    "CREATE INDEX sessions_expires_at_idx ON identity.sessions (expires_at)",
    """CREATE TABLE identity.invitations (
  id uuid PRIMARY KEY, organization_id uuid NOT NULL REFERENCES identity.organizations,
  email text NOT NULL, role text NOT NULL REFERENCES identity.roles,
  token_sha256 bytea NOT NULL UNIQUE CHECK (length(token_sha256) = 32),
  invited_by uuid REFERENCES identity.users, created_at timestamptz NOT NULL, expires_at timestamptz NOT NULL,
  accepted_at timestamptz, accepted_by uuid REFERENCES identity.users, revoked_at timestamptz)""",
    "CREATE INDEX invitations_list_idx ON identity.invitations (organization_id, created_at, id)",
    """CREATE UNIQUE INDEX invitations_one_open ON identity.invitations (organization_id, email)
  WHERE accepted_at IS NULL AND revoked_at IS NULL""",
    """CREATE TABLE identity.one_time_tokens (
  id uuid PRIMARY KEY, user_id uuid NOT NULL REFERENCES identity.users,
  purpose text NOT NULL CHECK (purpose IN ('email_verification', 'password_reset')),
  token_sha256 bytea NOT NULL UNIQUE CHECK (length(token_sha256) = 32),
  created_at timestamptz NOT NULL, expires_at timestamptz NOT NULL)""",
    "CREATE INDEX one_time_tokens_user_id_idx ON identity.one_time_tokens (user_id, purpose)",
    """CREATE TABLE identity.api_keys (
  id uuid PRIMARY KEY, organization_id uuid NOT NULL REFERENCES identity.organizations,
  public_id text COLLATE "C" NOT NULL UNIQUE, secret_sha256 bytea NOT NULL CHECK (length(secret_sha256) = 32),
  name text NOT NULL, mode text NOT NULL CHECK (mode IN ('live', 'test')), scopes text[] NOT NULL,
  created_by uuid NOT NULL REFERENCES identity.users, expires_at timestamptz, revoked_at timestamptz,
  rotated_from uuid REFERENCES identity.api_keys, replaced_by uuid REFERENCES identity.api_keys,
  overlap_ends_at timestamptz, last_used_at timestamptz, version bigint NOT NULL,
  created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL)""",
    "CREATE INDEX api_keys_list_idx ON identity.api_keys (organization_id, created_at, id)",
    # Mails and orders for mails, encrypted; sent by the worker after the transaction that wrote them.
    """CREATE TABLE identity.mail_outbox (
  id uuid PRIMARY KEY, kind text NOT NULL CHECK (kind IN ('mail', 'password_reset')), sealed bytea NOT NULL,
  attempts integer NOT NULL, next_attempt_at timestamptz NOT NULL, failed_at timestamptz, last_error text,
  created_at timestamptz NOT NULL)""",
    "CREATE INDEX mail_outbox_due_idx ON identity.mail_outbox (next_attempt_at) WHERE failed_at IS NULL",
    "GRANT SELECT ON identity.roles TO svc_identity",
    "GRANT SELECT, INSERT, UPDATE ON identity.organizations, identity.users, identity.api_keys TO svc_identity",
    """GRANT SELECT, INSERT, UPDATE, DELETE ON identity.memberships, identity.sessions, identity.invitations,
  identity.one_time_tokens, identity.mail_outbox TO svc_identity""",
]

_RESOLVE_API_KEY = """CREATE FUNCTION identity.resolve_api_key(the_public_id text)
RETURNS TABLE (public_id text, secret_sha256 bytea, organization_id uuid, actor_id text, actor_type text,
  scopes text[], expires_at timestamptz, disabled boolean, on_behalf_of uuid, mode text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, identity, pg_temp AS $$
  SELECT k.public_id, k.secret_sha256, k.organization_id, k.id::text, 'api_key',
    -- Never more than its creator may do today.
    ARRAY(SELECT s FROM unnest(k.scopes) AS s WHERE s = ANY (r.scopes)),
    least(k.expires_at, k.overlap_ends_at), k.revoked_at IS NOT NULL, k.created_by, k.mode
  FROM api_keys k
  LEFT JOIN memberships m ON m.organization_id = k.organization_id AND m.user_id = k.created_by
  LEFT JOIN roles r ON r.name = m.role
  WHERE k.public_id = the_public_id
$$"""

_RESOLVE_SESSION = """CREATE FUNCTION identity.resolve_session(the_token_sha256 bytea)
RETURNS TABLE (token_sha256 bytea, organization_id uuid, actor_id text, scopes text[], expires_at timestamptz,
  authenticated_at timestamptz)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, identity, pg_temp AS $$
  -- The gateway asks every few minutes for a session in use: that is when it was last seen.
  UPDATE sessions s SET last_seen_at = clock_timestamp()
  WHERE s.token_sha256 = the_token_sha256 AND s.last_seen_at < clock_timestamp() - interval '1 minute';
  SELECT s.token_sha256, m.organization_id, s.user_id::text, coalesce(r.scopes, '{}'), s.expires_at,
    s.authenticated_at
  FROM sessions s
  LEFT JOIN memberships m ON m.organization_id = s.organization_id AND m.user_id = s.user_id
  LEFT JOIN roles r ON r.name = m.role
  WHERE s.token_sha256 = the_token_sha256
$$"""

_TOUCH_API_KEYS = """CREATE FUNCTION identity.touch_api_keys(public_ids text[], times timestamptz[]) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, identity, pg_temp AS $$
  UPDATE api_keys k SET last_used_at = greatest(k.last_used_at, u.used_at)
  FROM unnest(public_ids, times) AS u (public_id, used_at) WHERE k.public_id = u.public_id
$$"""

# What a change makes the gateway forget. Inserts count: it also remembers what it did not find.
_NOTIFY = """CREATE FUNCTION identity.notify_credentials() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, identity, pg_temp AS $$
DECLARE
  changed record := coalesce(new, old);
BEGIN
  PERFORM pg_notify('guardian_credentials', CASE tg_table_name
    WHEN 'api_keys' THEN 'key:' || (to_jsonb(changed) ->> 'public_id')
    WHEN 'sessions' THEN 'session:' || substr(to_jsonb(changed) ->> 'token_sha256', 3)
    WHEN 'users' THEN 'user:' || (to_jsonb(changed) ->> 'id')
    WHEN 'memberships' THEN 'user:' || (to_jsonb(changed) ->> 'user_id')
    WHEN 'organizations' THEN 'organization:' || (to_jsonb(changed) ->> 'id')
    ELSE '*' END);
  RETURN NULL;
END $$"""

# Columns that change often and decide nothing.
_SILENT = {
    "api_keys": ["last_used_at"],
    "sessions": ["last_seen_at"],
    "users": ["event_sequence"],
    "memberships": [],
    "organizations": [],
    "roles": [],
}


def _trigger(table: str, silent: list[str]) -> list[str]:
    ignored = "".join(f" - '{name}'" for name in silent)
    return [
        f"""CREATE TRIGGER notify_made AFTER INSERT OR DELETE ON identity.{table}
  FOR EACH ROW EXECUTE FUNCTION identity.notify_credentials()""",
        f"""CREATE TRIGGER notify_changed AFTER UPDATE ON identity.{table} FOR EACH ROW
  WHEN ((to_jsonb(old){ignored}) IS DISTINCT FROM (to_jsonb(new){ignored}))
  EXECUTE FUNCTION identity.notify_credentials()""",
    ]


def upgrade() -> None:
    """Make the schema."""
    statements = [*_TABLES]
    for name, scopes in _ROLES.items():
        statements.append(f"INSERT INTO identity.roles VALUES ('{name}', '{{{','.join(scopes.split())}}}')")  # noqa: S608
    statements += [_RESOLVE_API_KEY, _RESOLVE_SESSION, _TOUCH_API_KEYS, _NOTIFY]
    statements += ["GRANT USAGE ON SCHEMA identity TO svc_gateway"]
    for function in ("resolve_api_key(text)", "resolve_session(bytea)", "touch_api_keys(text[], timestamptz[])"):
        statements += [
            f"REVOKE ALL ON FUNCTION identity.{function} FROM public",
            f"GRANT EXECUTE ON FUNCTION identity.{function} TO svc_gateway",
        ]
    statements += ["REVOKE ALL ON FUNCTION identity.notify_credentials() FROM public"]
    for table, silent in _SILENT.items():
        statements += _trigger(table, silent)
    statements += [*idempotency.ddl("identity"), *ddl.protect("identity.idempotency_keys")]
    statements += system_tables_ddl("identity")
    for statement in statements:
        op.execute(statement)
