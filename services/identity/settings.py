"""Settings of identity alone."""

from datetime import timedelta
from typing import Self

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.settings import Settings, from_environment

_RELAXED = 1_000_000


class IdentitySettings(BaseSettings):
    """Lifetimes, and how often anonymous callers may try.

    What is counted in an hour is counted from the full hour on, by all processes together: never more than the number
    in an hour of the clock, and never more than twice the number in a row. Of IPv6 the first 64 bits are the address.
    """

    model_config = SettingsConfigDict(env_prefix="GUARDIAN_IDENTITY_", frozen=True, extra="ignore")

    session_days: int = Field(14, ge=1, le=365, description="a session ends this long after signing in")
    invitation_days: int = Field(7, ge=1, le=90, description="an invitation can be accepted for this long")
    sign_ups_per_address: int = Field(60, ge=1, description="sign-ups of one address in an hour")
    sign_ins_per_address: int = Field(60, ge=1, description="sign-ins of one address in a minute, right or wrong")
    wrong_passwords_per_account: int = Field(
        10, ge=1, description="wrong passwords for one account from one address in an hour (ten times that in all)"
    )
    wrong_passwords_per_address: int = Field(100, ge=1, description="wrong passwords from one address in an hour")
    mails_per_account: int = Field(5, ge=1, description="password resets or verifications of one address in an hour")
    resets_per_address: int = Field(60, ge=1, description="password resets asked or tried from one address in an hour")
    pages_per_address: int = Field(300, ge=1, description="pages of mailed links shown to one address in a minute")

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """From the environment (raises ``InvalidSettings``); tests have no limits unless they set them."""
        made = from_environment(cls)
        if settings.environment != "test":
            return made
        limits = {name: _RELAXED for name in cls.model_fields if name not in {"session_days", "invitation_days"}}
        return made.model_copy(update={n: v for n, v in limits.items() if n not in made.model_fields_set})

    @property
    def session_lifetime(self) -> timedelta:
        """How long a session lives."""
        return timedelta(days=self.session_days)

    @property
    def invitation_lifetime(self) -> timedelta:
        """How long an invitation can be accepted."""
        return timedelta(days=self.invitation_days)
