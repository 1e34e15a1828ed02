"""Slows guessing down: how often an address, and an account, may try what needs no credential.

Counted by all processes together, and kept when they restart. An attempt counts from its beginning, so that a
hundred at once are not all let through, and is taken back when it was right: who knows the password is never locked
out by their own successes. Accounts are counted under a keyed hash.
"""

import hashlib
import hmac
from dataclasses import dataclass

from services.identity.settings import IdentitySettings
from shared.limits.anonymous import address_subject, platform_policy, too_many
from shared.limits.client import Limits
from shared.limits.decision import Decision
from shared.limits.policies import Policy

KEY_PURPOSE = "identity:guarded-accounts"
SIGN_UP, SIGN_IN, RESET, PAGE = "sign-up", "sign-in", "reset", "page"


def address_policies(settings: IdentitySettings) -> dict[str, Policy]:
    """What an address may try without a credential, by the names that routes use."""
    return {
        SIGN_UP: platform_policy(SIGN_UP, settings.sign_ups_per_address, "hour"),
        SIGN_IN: platform_policy(SIGN_IN, settings.sign_ins_per_address, "minute"),
        RESET: platform_policy(RESET, settings.resets_per_address, "hour"),
        PAGE: platform_policy(PAGE, settings.pages_per_address, "minute", on_failure="open"),
    }


@dataclass(frozen=True, slots=True)
class Attempt:
    """Something that was counted."""

    limits: Limits
    decision: Decision

    def succeeded(self) -> None:
        """It was right: it does not count against anybody."""
        self.limits.give_back(self.decision)


class Guard:
    """The limits of passwords and mails. ``key`` hides accounts.

    Every method but ``may_mail`` raises ``TooManyRequests`` when there were too many, and all of them
    ``ReducedCapacity`` when that cannot be told.
    """

    def __init__(self, limits: Limits, settings: IdentitySettings, key: bytes) -> None:
        self._limits = limits
        self._key = key
        wrong = settings.wrong_passwords_per_account
        self._account_from_address = platform_policy("password-account-address", wrong, "hour")
        self._account = platform_policy("password-account", wrong * 10, "hour")
        self._address = platform_policy("password-address", settings.wrong_passwords_per_address, "hour")
        self._mails = platform_policy("mail-account", settings.mails_per_account, "hour")

    async def password(self, account: str, address: str | None) -> Attempt:
        """A password is about to be tried for ``account`` (an address or a user's id)."""
        whose, where = self._subject(account), address_subject(address)
        counted = [
            (self._account_from_address, f"{whose}|{where}"),
            (self._account, whose),
            (self._address, where),
        ]
        return self._attempt(await self._limits.take(counted))

    async def mail(self, account: str) -> Attempt:
        """A mail is about to be sent to ``account``, who asked for it and is signed in."""
        return self._attempt(await self._limits.take([(self._mails, self._subject(account))]))

    async def may_mail(self, account: str) -> bool:
        """Whether ``account``, named by anybody, is to get one more mail; counts it when so.

        No refusal: a stranger could otherwise use up the limit and keep the account's owner from asking. The mails
        that did leave are theirs to use.
        """
        decision = await self._limits.take([(self._mails, self._subject(account))])
        if decision.unavailable:
            raise too_many(decision)
        return decision.allowed

    def _attempt(self, decision: Decision) -> Attempt:
        if not decision.allowed:
            raise too_many(decision)
        return Attempt(self._limits, decision)

    def _subject(self, account: str) -> str:
        return f"account:{hmac.new(self._key, account.encode(), hashlib.sha256).hexdigest()[:32]}"
