"""Bodies of the API key operations."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field, StringConstraints

from services.identity.domain import Mode
from services.identity.schemas import Lifetime, Version
from services.identity.signing_keys.domain import SignaturePolicy
from shared.http.fields import Input, Moment, Name, omitted

Scope = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]*:(read|write)$", max_length=64)]
Scopes = Annotated[
    list[Scope],
    Field(max_length=100, examples=[["contacts:read"]], description="at most the caller's own"),
]
_POLICY = (
    "whether requests must be signed: v1 as RFC 9421 says, v0 by the older scheme, which covers the time and the content "
    "alone (no method, host, path, query or field: what was signed for one route is good for another), both by either; "
    "needs a signing key (v0 and both: of hmac-sha256)"
)
_ANSWERS = (
    "whether answers are signed as RFC 9421 says, whatever signature_policy is: with the shared secret that signed the "
    "request, or else the newest; where there is none, with the key of /.well-known/guardian-answer-key. Needs a signing key"
)
THIRTY_DAYS = 30 * 86_400


def _id(value: Any) -> Any:
    if isinstance(value, str) and value.strip().startswith("gdn_"):
        raise ValueError("this is an API key, which is a secret; send its id instead, which GET /v1/api-keys shows")
    return value


ApiKeyId = Annotated[UUID, BeforeValidator(_id)]
"""The id of an API key. Whoever gives the key itself is told so, without the key."""


class ApiKeyCreate(Lifetime):
    """A new key."""

    name: Name = Field(examples=["Nightly import"])
    scopes: Scopes
    mode: Mode = Field("live", description="written into the key; test keys are told apart at a glance")


class ApiKeyChange(Input):
    """What to change; a field that is left out keeps its value."""

    name: Name = Field("", examples=["Nightly import"])
    scopes: Scopes = Field(default_factory=list)
    expires_at: Moment | None = Field(None, description="null: never")
    signature_policy: Annotated[SignaturePolicy, Field(description=_POLICY)] = omitted()
    sign_answers: Annotated[bool, Field(description=_ANSWERS)] = omitted()


class ApiKeyReroll(Input):
    """How long the old key goes on working beside the new one."""

    overlap_seconds: int = Field(86_400, ge=0, le=THIRTY_DAYS, description="0: the old key stops at once")
    expires_at: Moment | None = Field(None, description="of the new key; as the old one's when left out")


class ApiKey(BaseModel):
    """A key, without its secret. ``public_id`` is the part of its text that names it."""

    id: UUID
    public_id: str
    name: str
    mode: Mode
    scopes: list[str]
    created_by: UUID
    expires_at: datetime | None
    revoked_at: datetime | None
    rotated_from: UUID | None
    replaced_by: UUID | None
    overlap_ends_at: datetime | None = Field(description="a replaced key works until then")
    last_used_at: datetime | None = Field(description="a minute coarse")
    signature_policy: SignaturePolicy = Field(description=_POLICY)
    sign_answers: bool = Field(description=_ANSWERS)
    version: Version
    created_at: datetime
    updated_at: datetime


class NewApiKey(ApiKey):
    """A key just made; ``key`` is shown this once."""

    key: str = Field(examples=["gdn_live_8fKq2LmZ0a_…"])
