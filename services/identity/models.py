"""The tables of the schema ``identity``: global ones, signing keys, and the answers kept for repeated requests."""

from sqlalchemy import ARRAY, BigInteger, Boolean, Column, DateTime, Integer, LargeBinary, Text, Uuid

from shared.db import global_table, metadata_for, tenant_table
from shared.http import idempotency

metadata = metadata_for("identity")
idempotency.table(metadata)


def _moment(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _key() -> Column[object]:
    return Column("id", Uuid, primary_key=True)


roles = global_table(
    "roles",
    metadata,
    Column("name", Text, primary_key=True),
    Column("scopes", ARRAY(Text), nullable=False),
)

organizations = global_table(
    "organizations",
    metadata,
    _key(),
    Column("name", Text, nullable=False),
    Column("data_region", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
)

users = global_table(
    "users",
    metadata,
    _key(),
    Column("email", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    _moment("email_verified_at", nullable=True),
    Column("event_sequence", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
)

memberships = global_table(
    "memberships",
    metadata,
    _key(),
    Column("organization_id", Uuid, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("role", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
)

sessions = global_table(
    "sessions",
    metadata,
    _key(),
    Column("token_sha256", LargeBinary, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("organization_id", Uuid),
    Column("user_agent", Text),
    Column("client_address", Text),
    _moment("authenticated_at"),
    _moment("created_at"),
    _moment("last_seen_at"),
    _moment("expires_at"),
)

invitations = global_table(
    "invitations",
    metadata,
    _key(),
    Column("organization_id", Uuid, nullable=False),
    Column("email", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("token_sha256", LargeBinary, nullable=False),
    Column("invited_by", Uuid),
    _moment("created_at"),
    _moment("expires_at"),
    _moment("accepted_at", nullable=True),
    Column("accepted_by", Uuid),
    _moment("revoked_at", nullable=True),
)

one_time_tokens = global_table(
    "one_time_tokens",
    metadata,
    _key(),
    Column("user_id", Uuid, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("token_sha256", LargeBinary, nullable=False),
    _moment("created_at"),
    _moment("expires_at"),
)

api_keys = global_table(
    "api_keys",
    metadata,
    _key(),
    Column("organization_id", Uuid, nullable=False),
    Column("public_id", Text, nullable=False),
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("name", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_by", Uuid, nullable=False),
    _moment("expires_at", nullable=True),
    _moment("revoked_at", nullable=True),
    Column("rotated_from", Uuid),
    Column("replaced_by", Uuid),
    _moment("overlap_ends_at", nullable=True),
    _moment("last_used_at", nullable=True),
    Column("signature_policy", Text, nullable=False),
    Column("sign_answers", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
)

signing_keys = tenant_table(
    "signing_keys",
    metadata,
    Column("api_key_id", Uuid, nullable=False),
    Column("algorithm", Text, nullable=False),
    Column("material", LargeBinary, nullable=False),
    Column("rotated_from", Uuid),
    Column("created_by", Uuid, nullable=False),
    _moment("expires_at", nullable=True),
    _moment("revoked_at", nullable=True),
    Column("version", BigInteger, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
)

# Read and written by functions of the database alone (migrations 0004 and 0005).
for _name in ("request_nonces", "request_nonces_ahead", "request_nonces_spent"):
    global_table(
        _name,
        metadata,
        Column("signing_key_id", Uuid, primary_key=True),
        Column("nonce", Text, primary_key=True),
        _moment("until"),
    )
global_table("nonce_memory", metadata, Column("only_row", Boolean, primary_key=True), _moment("since"))

mail_outbox = global_table(
    "mail_outbox",
    metadata,
    _key(),
    Column("kind", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("attempts", Integer, nullable=False),
    _moment("next_attempt_at"),
    _moment("failed_at", nullable=True),
    Column("last_error", Text),
    _moment("created_at"),
)
