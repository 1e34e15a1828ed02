"""Identifiers: UUIDv7 (RFC 9562 §5.7), so that they sort by creation time and index well."""

from uuid import UUID

import uuid_utils.compat

from shared import clock

NIL = UUID(int=0)
"""The organisation of a caller who has none; row-level security finds no row for it."""


def new_id() -> UUID:
    """A fresh UUIDv7 whose timestamp is ``clock.now()``."""
    return uuid_utils.compat.uuid7(nanoseconds=round(clock.now().timestamp() * 1_000_000) * 1000)
