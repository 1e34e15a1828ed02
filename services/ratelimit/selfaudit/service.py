"""The use case of the audit of limits."""

from datetime import UTC, datetime
from uuid import UUID

from services.ratelimit.selfaudit import repository
from services.ratelimit.selfaudit.schemas import LimitAuditQuery
from shared.auth import Principal
from shared.db import Record, Session
from shared.errors import BadRequest
from shared.http.pagination import decode_cursor

SORT = "-window_end"


async def page(session: Session, principal: Principal, query: LimitAuditQuery) -> list[Record]:
    """One window more than the page holds, the latest first."""
    after = _position(query.cursor) if query.cursor else None
    return await repository.page(session, principal.organization_id, query.policy_id, after, query.limit + 1)


def _position(cursor: str) -> repository.Position:
    end, policy_id, epoch, subject = decode_cursor(cursor, SORT, 4)
    try:
        moment = datetime.fromisoformat(end).astimezone(UTC)
        if isinstance(subject, str) and "\x00" not in subject and type(epoch) is int and abs(epoch) < 2**31:
            return moment, UUID(policy_id), epoch, subject
    except (ValueError, TypeError, AttributeError, OverflowError):
        pass
    raise BadRequest("The cursor is not one of this list; start again without one.", code="invalid_cursor")
