"""Bodies of the signing key operations."""

from base64 import b64encode
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints
from pydantic.json_schema import SkipJsonSchema

from services.identity.api_keys.schemas import THIRTY_DAYS
from services.identity.schemas import Lifetime, Version
from services.identity.signing_keys.domain import Algorithm, is_sound, raw_public_key, refuse_private
from shared.http.fields import Input, Moment

_FORMS = (
    "for ed25519: its 32 bytes in base64, or the whole SubjectPublicKeyInfo, in base64 (DER, 44 bytes) or PEM, as "
    "'openssl pkey -in key.pem -pubout' prints it, or OpenSSH's line 'ssh-ed25519 …'"
)


def _not_private(value: Any) -> Any:
    return refuse_private(value) if isinstance(value, str) else value


def _public_key(text: str) -> str:
    """The key's 32 bytes in base64, whichever way it was written."""
    raw = raw_public_key(text)
    if not is_sound(raw):
        raise ValueError("is not an Ed25519 public key of 32 bytes")
    return b64encode(raw).decode()


def _kept(_value: Any) -> Any:
    raise ValueError("a rotation keeps the algorithm; leave this out, or make another signing key")


PublicKey = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=1000, pattern=r"^[\x20-\x7e\r\n]*$"),
    BeforeValidator(_not_private),  # before the length: most private keys are longer
    AfterValidator(_public_key),
    Field(examples=["11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="]),
]


class SigningKeyCreate(Lifetime):
    """A new key: a shared secret, which is made here, or the public half of a pair that was made elsewhere."""

    algorithm: Algorithm = "hmac-sha256"
    public_key: PublicKey | None = Field(None, description=_FORMS)


class SigningKeyRotate(Input):
    """How long the old key goes on working beside the new one."""

    algorithm: Annotated[SkipJsonSchema[None], BeforeValidator(_kept)] = None  # only to say why it is refused
    overlap_seconds: int = Field(86_400, ge=0, le=THIRTY_DAYS, description="0: the old key stops at once")
    public_key: PublicKey | None = Field(None, description="for ed25519: the new one, as when the old one was made")
    expires_at: Moment | None = Field(None, description="of the new key; never when left out")


class SigningKey(BaseModel):
    """A signing key without its secret. Its ``id`` is the ``keyid`` of signatures."""

    id: UUID
    api_key_id: UUID
    algorithm: Algorithm
    public_key: str | None = Field(description="of ed25519: 32 bytes in base64")
    rotated_from: UUID | None = Field(description="the key it follows, or (after an API key's reroll) is a copy of")
    created_by: UUID
    expires_at: datetime | None
    revoked_at: datetime | None
    version: Version
    created_at: datetime
    updated_at: datetime


class NewSigningKey(SigningKey):
    """A signing key just made; ``secret`` is shown this once."""

    secret: str | None = Field(description="of hmac-sha256; the HMAC's key is this text as it stands",
                               examples=["gdns_…"])  # fmt: skip
