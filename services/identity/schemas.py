"""Field types of several resources."""

from datetime import datetime, timedelta
from typing import Annotated, Self

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator

from services.identity.domain import MAX_PASSWORD, MIN_PASSWORD
from shared.http.fields import Email, Input, Moment

_TEN_YEARS = 3652 * 86_400


def _deliverable(address: str) -> str:
    try:
        # What mail servers accept; whether the domain exists is for the mail itself to show.
        return validate_email(address, check_deliverability=False, globally_deliverable=False).normalized.lower()
    except EmailNotValidError as error:
        raise ValueError(str(error)) from None


AccountEmail = Annotated[Email, AfterValidator(_deliverable)]
"""An address that mail can be sent to, lower-cased."""

NewPassword = Annotated[
    str,
    StringConstraints(min_length=MIN_PASSWORD, max_length=MAX_PASSWORD, pattern=r"^[^\x00]*$"),
    Field(
        description="at least 12 characters; the passwords that are tried first are refused",
        examples=["tall-horses-eat-grass"],
    ),
]
GivenPassword = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PASSWORD)]
GivenToken = Annotated[str, StringConstraints(min_length=20, max_length=100, pattern=r"^[A-Za-z0-9_-]+$")]
Version = Annotated[int, Field(description="counts the changes; the ETag")]


class Accepted(BaseModel):
    """The request was understood; what it causes happens elsewhere."""

    status: str = Field("accepted", examples=["accepted"])


class Lifetime(Input):
    """How long what is made is to work."""

    expires_at: Moment | None = Field(None, description="never, when this and expires_in are left out")
    expires_in: int | None = Field(None, ge=1, le=_TEN_YEARS, description="seconds from now, instead of expires_at")

    @model_validator(mode="after")
    def _expires_once(self) -> Self:
        if self.expires_at is not None and self.expires_in is not None:
            raise ValueError("give expires_at or expires_in, not both")
        return self

    def ends_at(self, now: datetime) -> datetime | None:
        """When it expires; None: never."""
        return self.expires_at if self.expires_in is None else now + timedelta(seconds=self.expires_in)
