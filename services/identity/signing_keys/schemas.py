"""Bodies of the signing key operations."""

import binascii
from base64 import b64decode, b64encode
from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from services.identity.api_keys.schemas import THIRTY_DAYS
from services.identity.schemas import Lifetime, Version
from services.identity.signing_keys.domain import Algorithm, is_sound, pem_to_raw
from shared.http.fields import Input, Moment


def _public_key(text: str) -> str:
    """The key's 32 bytes in base64, whichever way it was written."""
    if text.startswith("-----"):
        raw = pem_to_raw(text)
    else:
        try:
            raw = b64decode(text, validate=True)
        except binascii.Error:
            raise ValueError("is neither base64 nor PEM") from None
    if not is_sound(raw):
        raise ValueError("is not an Ed25519 public key of 32 bytes")
    return b64encode(raw).decode()


PublicKey = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=1000, pattern=r"^[\x20-\x7e\r\n]*$"),
    AfterValidator(_public_key),
    Field(examples=["11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="]),
]


class SigningKeyCreate(Lifetime):
    """A new key: a shared secret, which is made here, or the public half of a pair that was made elsewhere."""

    algorithm: Algorithm = "hmac-sha256"
    public_key: PublicKey | None = Field(None, description="for ed25519: its 32 bytes in base64, or PEM")


class SigningKeyRotate(Input):
    """How long the old key goes on working beside the new one."""

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
