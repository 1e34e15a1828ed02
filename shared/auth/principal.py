"""The caller of an operation, as the gateway established it."""

from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from shared.errors import Forbidden, Unauthenticated
from shared.ids import NIL

ActorType = Literal["user", "api_key", "service", "system", "anonymous"]


@dataclass(frozen=True, slots=True)
class Principal:
    """One authenticated caller within one organisation.

    ``organization_id`` is the nil UUID for a caller without an organisation, so that row-level
    security finds nothing for it. ``scopes`` are ``<resource>:<verb>`` strings.
    """

    organization_id: UUID
    actor_type: ActorType
    actor_id: str
    scopes: frozenset[str] = frozenset()
    auth_method: str = "internal"
    auth_time: int = 0
    on_behalf_of: str | None = None
    session_id: str | None = None
    client_address: str | None = None
    request_id: str = ""
    traceparent: str | None = field(default=None, compare=False)

    def require(self, scope: str) -> None:
        """Raise ``Unauthenticated`` or ``Forbidden`` (code ``missing_scope``) unless the scope is held."""
        if scope in self.scopes:
            return
        if self.actor_type == "anonymous":
            raise Unauthenticated(
                "Send an API key as 'Authorization: Bearer gdn_…' or sign in first.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        raise Forbidden(
            f"This operation needs the scope '{scope}', which the credential does not have.",
            code="missing_scope",
            required_scope=scope,
        )

    def require_user(self) -> None:
        """Raise ``Unauthenticated`` or ``Forbidden`` (code ``user_required``) unless a person is signed in."""
        if self.actor_type == "user":
            return
        if self.actor_type == "anonymous":
            raise Unauthenticated("Sign in first: POST /v1/sessions.", headers={"WWW-Authenticate": "Bearer"})
        raise Forbidden("Only a person who is signed in can do this, not an API key.", code="user_required")

    @property
    def user_id(self) -> UUID | None:
        """The user's id when a person is calling, else None."""
        return UUID(self.actor_id) if self.actor_type == "user" else None


ANONYMOUS = Principal(organization_id=NIL, actor_type="anonymous", actor_id="anonymous")
