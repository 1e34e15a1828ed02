"""Who is calling, and what they may do."""

from shared.auth.identity import (
    IDENTITY_HEADER,
    TIMEOUT_HEADER,
    Claims,
    IdentitySigner,
    IdentityVerifier,
    InvalidIdentity,
)
from shared.auth.principal import ActorType, Principal

__all__ = [
    "IDENTITY_HEADER",
    "TIMEOUT_HEADER",
    "ActorType",
    "Claims",
    "IdentitySigner",
    "IdentityVerifier",
    "InvalidIdentity",
    "Principal",
]
