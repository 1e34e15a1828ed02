"""Field types of input models: what fits the database is accepted, anything else names its field in a 422."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

_DATE_FIRST = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")
_FIRST, _LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def _written_out(value: Any) -> Any:
    # Pydantic would take a bare number for seconds since 1970.
    if isinstance(value, datetime) or (isinstance(value, str) and _DATE_FIRST.match(value)):
        return value
    raise ValueError("the time must be written as in RFC 3339: 2026-05-31T12:00:00Z")


def _in_range(moment: datetime) -> datetime:
    if not _FIRST <= moment < _LAST:
        raise ValueError("the time must lie between the years 1900 and 2200")
    return moment.astimezone(UTC)


# PostgreSQL stores no NUL character, so the patterns leave it out. Other control characters have no
# place in a name, and written as \u0001 in JSON they would multiply the size of an event.
Line = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""One line of text, up to 200 characters."""

Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
]
"""A line that may not be empty."""

LongText = Annotated[str, StringConstraints(max_length=20_000, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$")]
"""Text of several lines, up to 20,000 characters."""

Email = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, to_lower=True, max_length=254, pattern=r"^[^@\s\x00]+@[^@\s\x00]+\.[^@\s\x00.]+$"
    ),
]
"""An e-mail address, lower-cased; whether it receives mail is for a confirmation to show."""

Tag = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=50, pattern=r"^[^\x00-\x1f\x7f,]+$")
]
"""A short label."""

Moment = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_range)]
"""A time with an offset, between 1900 and 2200; kept in UTC."""


def omitted() -> Any:
    """Default of a field a PATCH may leave out. Read such a body with ``exclude_unset``.

    Unlike a literal default it is not written into the schema, where a client would take it for the
    value a missing field gets.
    """
    return Field(default_factory=lambda: None)


class Input(BaseModel):
    """A request body: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")
