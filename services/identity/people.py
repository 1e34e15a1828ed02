"""Who acts, and telling what happened to a person."""

from collections.abc import Iterable
from dataclasses import replace
from uuid import UUID

from services.identity.accounts import repository as accounts
from services.identity.members import repository as members
from shared.auth import Principal
from shared.db import Session
from shared.events import Event, publish


def as_user(principal: Principal, user_id: UUID, organization_id: UUID) -> Principal:
    """The caller once it is known who they are: events name the person and not 'anonymous'."""
    return replace(
        principal, organization_id=organization_id, actor_type="user", actor_id=str(user_id), auth_method="session"
    )


async def publish_about(
    session: Session, principal: Principal, user_id: UUID, payload: Event, organizations: Iterable[UUID] | None = None
) -> None:
    """Publish a fact about a person in ``organizations``; in all they belong to when left out."""
    if organizations is None:
        organizations = await members.organizations_of(session, user_id)
    sequence = await accounts.next_event(session, user_id)
    for organization_id in organizations:
        publish(
            session, payload, subject=user_id, sequence=sequence, principal=principal, organization_id=organization_id
        )
