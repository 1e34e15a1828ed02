"""What the mails say. Links lead to pages of this service."""

from urllib.parse import urlencode

PAGE_OF = {
    "email_verification": "/verify-email",
    "password_reset": "/reset-password",
    "invitation": "/accept-invitation",
}


def link(base_url: str, purpose: str, token: str) -> str:
    """Where a person goes with a token."""
    return f"{base_url}{PAGE_OF[purpose]}?{urlencode({'token': token})}"


def email_verification(name: str, url: str) -> tuple[str, str]:
    """Subject and text of the mail that asks whether an address is its owner's."""
    return "Confirm your e-mail address", (
        f"Hello {name},\n\nsomebody signed up to Guardian with this address. If that was you, confirm it here:\n\n"
        f"{url}\n\nThe link works once, for three days. If it was not you, ignore this mail.\n"
    )


def password_reset(name: str, url: str) -> tuple[str, str]:
    """Subject and text of the mail that lets a person choose a new password."""
    return "Choose a new password", (
        f"Hello {name},\n\nhere you can choose a new password for Guardian:\n\n{url}\n\n"
        "The link works once, for one hour, and signs you out everywhere. "
        "If you did not ask for it, ignore this mail: your password stays as it is.\n"
    )


def invitation(organization: str, inviter: str, role: str, url: str, days: int) -> tuple[str, str]:
    """Subject and text of an invitation."""
    return f"{inviter} invites you to {organization}", (
        f"Hello,\n\n{inviter} invites you to work with {organization} on Guardian as {role}. Accept here:\n\n{url}\n\n"
        f"The link works once, for {days} days. If you do not know why you got it, ignore this mail.\n"
    )


def password_changed(name: str) -> tuple[str, str]:
    """Subject and text of the notice after a password has changed."""
    return "Your password was changed", (
        f"Hello {name},\n\nyour Guardian password has just been changed. If that was not you, choose a new one at "
        "once with 'forgot password' and tell an owner of your organisation.\n"
    )
