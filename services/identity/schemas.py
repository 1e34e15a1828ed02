"""Field types of several resources."""

from typing import Annotated

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from services.identity.domain import MAX_PASSWORD, MIN_PASSWORD
from shared.http.fields import Email


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
