"""Owners and administrators set limits and see usage.

Phase: expand.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the scopes to the two roles."""
    op.execute(
        "UPDATE identity.roles SET scopes = scopes || '{limits:read,limits:write,usage:read}'"
        " WHERE name IN ('owner', 'admin')"
    )
