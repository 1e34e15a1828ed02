"""The whole system on one page: services, schemas, topics, routes, and who may call whom.

Everything that composes services reads this: ``guardian up``, the gateway's routing table, migrations,
contracts, and the tests that hold ``docs/architecture.md`` and the compose file to it. Applications are
named by import string, so that running one service does not import the others.
"""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

Operation = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Service:
    """One independently deployable service."""

    name: str
    prefixes: tuple[str, ...]
    """Paths the gateway forwards to it."""
    public: frozenset[Operation] = field(default=frozenset())
    """Operations that need no principal: (method, path)."""
    callers: tuple[str, ...] = ("gateway",)
    """Who may call it over HTTP, besides nobody."""
    publishes: bool = True
    """Whether it publishes on ``guardian.<name>.events``."""
    consumes: tuple[str, ...] = ()
    """The services whose events it consumes."""
    schema: bool = True
    """Whether it owns a schema and a database role."""

    @property
    def topic(self) -> str:
        """The topic of its events."""
        return f"guardian.{self.name}.events"

    def load(self, attribute: str) -> Any:
        """``create_app`` or ``worker`` of ``services.<name>.app``."""
        return getattr(import_module(f"services.{self.name}.app"), attribute)


IDENTITY = Service(
    name="identity",
    prefixes=(
        "/v1/sign-up",
        "/v1/sessions",
        "/v1/me",
        "/v1/email-verifications",
        "/v1/password-resets",
        "/v1/organization",
        "/v1/organizations",
        "/v1/members",
        "/v1/invitations",
        "/v1/roles",
        "/v1/api-keys",
        "/v1/signatures",
        "/verify-email",
        "/reset-password",
        "/accept-invitation",
        "/dev/mailbox",
    ),
    public=frozenset(
        {
            ("POST", "/v1/sign-up"),
            ("POST", "/v1/sessions"),
            ("POST", "/v1/email-verifications/confirm"),
            ("POST", "/v1/password-resets"),
            ("POST", "/v1/password-resets/confirm"),
            ("POST", "/v1/invitations/accept"),
            ("GET", "/verify-email"),
            ("POST", "/verify-email"),
            ("GET", "/reset-password"),
            ("POST", "/reset-password"),
            ("GET", "/accept-invitation"),
            ("POST", "/accept-invitation"),
            ("GET", "/dev/mailbox"),
            ("GET", "/dev/mailbox/{mail}"),
        }
    ),
    callers=("gateway", "health"),
)

CRM = Service(
    name="crm",
    prefixes=("/v1/contacts", "/v1/companies", "/v1/deals", "/v1/pipelines", "/v1/activities", "/v1/custom-fields"),
    callers=("gateway", "health"),
)

AUDIT = Service(
    name="audit",
    prefixes=("/v1/audit",),
    callers=("gateway", "health"),
    publishes=False,
    consumes=("identity", "crm", "ratelimit"),
)

RATELIMIT = Service(
    name="ratelimit",
    prefixes=("/v1/limits", "/v1/plans", "/v1/usage"),
    callers=("gateway", "health"),
)

HEALTH = Service(
    name="health",
    prefixes=("/v1/health",),
    public=frozenset({("GET", "/v1/health")}),
    publishes=False,
    schema=False,
)

SERVICES: tuple[Service, ...] = (IDENTITY, CRM, AUDIT, RATELIMIT, HEALTH)

SCHEMAS: tuple[str, ...] = tuple(service.name for service in SERVICES if service.schema)

GATEWAY_ROLE = "gateway"
"""``svc_gateway`` owns no schema: it may listen and execute identity's resolve functions."""
