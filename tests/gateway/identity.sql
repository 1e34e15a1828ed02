-- The least the identity service must offer the gateway: two questions and one note, and nothing else.
CREATE TABLE identity.keys (
  public_id text PRIMARY KEY, secret_sha256 bytea NOT NULL, organization_id uuid NOT NULL, actor_id text NOT NULL,
  scopes text[] NOT NULL, expires_at timestamptz, disabled bool NOT NULL DEFAULT false, on_behalf_of uuid,
  mode text NOT NULL DEFAULT 'live', last_used_at timestamptz, touches int NOT NULL DEFAULT 0,
  signature_policy text NOT NULL DEFAULT 'off', sign_answers bool NOT NULL DEFAULT false,
  signing_keys jsonb NOT NULL DEFAULT '[]'
);
CREATE TABLE identity.sessions (
  token_sha256 bytea PRIMARY KEY, organization_id uuid, user_id text NOT NULL, scopes text[] NOT NULL,
  expires_at timestamptz NOT NULL, authenticated_at timestamptz NOT NULL
);
CREATE TABLE identity.asked (what text NOT NULL);

CREATE FUNCTION identity.resolve_api_key(p_public_id text)
RETURNS TABLE (public_id text, secret_sha256 bytea, organization_id uuid, actor_id text, actor_type text,
  scopes text[], expires_at timestamptz, disabled bool, on_behalf_of uuid, mode text, signature_policy text,
  sign_answers bool, signing_keys jsonb)
LANGUAGE sql SECURITY DEFINER SET search_path = identity, pg_temp AS $$
  INSERT INTO asked VALUES ('key:' || p_public_id);
  SELECT k.public_id, k.secret_sha256, k.organization_id, k.actor_id, 'api_key', k.scopes, k.expires_at, k.disabled,
    k.on_behalf_of, k.mode, k.signature_policy, k.sign_answers, k.signing_keys FROM keys k WHERE k.public_id = p_public_id;
$$;
CREATE FUNCTION identity.resolve_session(p_token_sha256 bytea)
RETURNS TABLE (token_sha256 bytea, organization_id uuid, actor_id text, scopes text[], expires_at timestamptz,
  authenticated_at timestamptz)
LANGUAGE sql SECURITY DEFINER SET search_path = identity, pg_temp AS $$
  INSERT INTO asked VALUES ('session');
  SELECT s.token_sha256, s.organization_id, s.user_id, s.scopes, s.expires_at, s.authenticated_at
    FROM sessions s WHERE s.token_sha256 = p_token_sha256;
$$;
CREATE FUNCTION identity.touch_api_keys(public_ids text[], times timestamptz[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = identity, pg_temp AS $$
  UPDATE keys k SET last_used_at = greatest(k.last_used_at, t.at), touches = touches + 1
    FROM unnest(public_ids, times) AS t (id, at) WHERE k.public_id = t.id;
$$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA identity FROM public;
GRANT USAGE ON SCHEMA identity TO svc_gateway;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA identity TO svc_gateway;
