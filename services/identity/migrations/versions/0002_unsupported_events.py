"""An event that is too new for a consumer is a dead letter of its own kind.

Phase: expand.
"""

from alembic import op

from shared.events.schema import dead_letter_reasons_ddl

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let the dead letters say so."""
    for statement in dead_letter_reasons_ddl("identity"):
        op.execute(statement)
