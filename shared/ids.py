"""Identifiers: UUIDv7 (RFC 9562 §5.7), so that they sort by creation time and index well; and ids of what has a name."""

from uuid import UUID, uuid5

import uuid_utils.compat

from shared import clock

NIL = UUID(int=0)
"""The organisation of a caller who has none; row-level security finds no row for it."""

_DERIVED = UUID("5f0c1a52-6c1e-5d0a-9b57-0d4c7a1f2e63")


def new_id() -> UUID:
    """A fresh UUIDv7 whose timestamp is ``clock.now()``."""
    return uuid_utils.compat.uuid7(nanoseconds=round(clock.now().timestamp() * 1_000_000) * 1000)


def derived_id(*parts: object) -> UUID:
    """The id of what these parts name together; the same parts give the same id everywhere."""
    return uuid5(_DERIVED, "/".join(map(str, parts)))
