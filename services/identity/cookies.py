"""The session cookie. Its name is the gateway's: ``__Host-`` binds it to https, which development has not."""

from shared.settings import Settings


def _name(settings: Settings) -> str:
    return "__Host-guardian_session" if settings.environment == "production" else "guardian_session"


def session_cookie(settings: Settings, token: str, seconds: int) -> str:
    """A ``Set-Cookie`` value that signs in; with ``seconds=0`` one that signs out."""
    secure = "; Secure" if settings.environment == "production" else ""
    return f"{_name(settings)}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"
