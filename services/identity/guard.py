"""Slows guessing down: how often one address, and one account, may try what needs no credential.

Sliding windows in this process's memory. An attempt counts from its beginning, so that a hundred at once
are not all let through, and is taken back when it was right: who knows the password is never locked out
by their own successes.
"""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from services.identity.settings import IdentitySettings
from shared.errors import TooManyRequests

_QUARTER, _HOUR = 900.0, 3600.0
_CAPACITY = 100_000


class Window:
    """At most ``limit`` events for a key in ``seconds``; remembers as many keys as fit."""

    def __init__(self, limit: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._events: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, key: str) -> float:
        """Seconds until the key may go on; 0 when it may now."""
        events = self._events.get(key)
        if events is None:
            return 0.0
        now = self._clock()
        while events and now - events[0] >= self._seconds:
            events.popleft()
        if not events:
            del self._events[key]
            return 0.0
        return self._seconds - (now - events[0]) if len(events) >= self._limit else 0.0

    def count(self, key: str) -> None:
        """One more event of the key."""
        events = self._events.setdefault(key, deque(maxlen=self._limit))
        self._events.move_to_end(key)
        events.append(self._clock())
        if len(self._events) > _CAPACITY:
            self._events.popitem(last=False)

    def forgive(self, key: str) -> None:
        """Take the key's latest event back."""
        events = self._events.get(key)
        if events:
            events.pop()


@dataclass(frozen=True, slots=True)
class Attempt:
    """Something that was counted."""

    counted: tuple[tuple[Window, str], ...]

    def succeeded(self) -> None:
        """It was right: it does not count against anybody."""
        for window, key in self.counted:
            window.forgive(key)


class Guard:
    """The windows of one application. Every method but ``may_mail`` raises ``TooManyRequests`` when there were too many."""

    def __init__(self, settings: IdentitySettings, clock: Callable[[], float] = time.monotonic) -> None:
        wrong = settings.wrong_passwords_per_account
        self._account_from_address = Window(wrong, _QUARTER, clock)
        self._account = Window(wrong * 10, _QUARTER, clock)
        self._address = Window(settings.wrong_passwords_per_address, _QUARTER, clock)
        self._sign_ups = Window(settings.sign_ups_per_address, _HOUR, clock)
        self._mails = Window(settings.mails_per_account, _HOUR, clock)
        self._resets = Window(settings.resets_per_address, _HOUR, clock)

    def password(self, account: str, address: str | None) -> Attempt:
        """A password is about to be tried for ``account`` (an address or a user's id)."""
        address = address or "unknown"
        return _attempt(
            (self._account_from_address, f"{account} {address}"), (self._account, account), (self._address, address)
        )

    def sign_up(self, address: str | None) -> Attempt:
        """An account is about to be made, or a token to be tried that makes one."""
        return _attempt((self._sign_ups, address or "unknown"))

    def reset(self, address: str | None) -> Attempt:
        """A reset is asked for, or a token is about to be tried."""
        return _attempt((self._resets, address or "unknown"))

    def mail(self, account: str) -> Attempt:
        """A mail is about to be sent to ``account``, who asked for it and is signed in."""
        return _attempt((self._mails, account))

    def may_mail(self, account: str) -> bool:
        """Whether ``account``, named by anybody, is to get one more mail; counts it when so.

        No refusal: a stranger could otherwise use up the limit and keep the account's owner from asking. The mails
        that did leave are theirs to use.
        """
        if self._mails.wait(account) > 0:
            return False
        self._mails.count(account)
        return True


def _attempt(*counted: tuple[Window, str]) -> Attempt:
    wait = max(window.wait(key) for window, key in counted)
    if wait > 0:
        raise TooManyRequests("There were too many attempts; wait before the next one.", retry_after=math.ceil(wait))
    for window, key in counted:
        window.count(key)
    return Attempt(counted)
