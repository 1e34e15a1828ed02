"""Argon2id in threads of its own: hashing takes tens of milliseconds and 19 MiB, two at a time."""

import asyncio
import unicodedata
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from services.identity.domain import password_problem
from shared.errors import ValidationFailed

# OWASP's recommendation for argon2id; the memory is what bounds the threads.
_hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
_threads = ThreadPoolExecutor(2, thread_name_prefix="argon2")

# Of a password nobody knows: verifying against it costs what verifying a real one does.
_DUMMY = _hasher.hash("a password that belongs to nobody")


async def hash_new_password(password: str, *, email: str = "", name: str = "", field: str = "/password") -> str:
    """The hash of a password somebody chose; raises ``ValidationFailed`` when it is easy to guess."""
    problem = password_problem(password, email, name)
    if problem:
        raise ValidationFailed(
            f"The password {problem}; choose another one, several unrelated words for example.",
            code="password_too_common",
            errors=[{"field": field, "code": "password_too_common", "message": problem}],
        )
    return await hash_password(password)


async def hash_password(password: str) -> str:
    """The encoded argon2id hash, with a salt of its own."""
    return await asyncio.get_running_loop().run_in_executor(_threads, _hasher.hash, _normal(password))


async def verify_password(encoded: str | None, password: str) -> bool:
    """Whether the password is the one of ``encoded``; without one, no, after the same work."""
    matches = await asyncio.get_running_loop().run_in_executor(_threads, _verify, encoded or _DUMMY, password)
    return matches and encoded is not None


def _verify(encoded: str, password: str) -> bool:
    try:
        return _hasher.verify(encoded, _normal(password))
    except (Argon2Error, InvalidHashError):
        return False


def _normal(password: str) -> str:
    # The same character can be typed in more than one way (NIST SP 800-63B §3.1.1.2).
    return unicodedata.normalize("NFKC", password)
