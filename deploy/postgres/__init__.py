"""The PostgreSQL server that comes as a Python wheel: found, initialised, launched and watched.

What is policy (where data lives, which settings, when to stop) belongs to the two users of this
package: ``cli.postgres`` for ``guardian up`` and ``shared.testing`` for test runs.
"""

from deploy.postgres.account import Account, account_for
from deploy.postgres.server import (
    PostgresError,
    Postmaster,
    binary,
    free_port,
    initialize,
    launch,
    read_postmaster,
    stop_postmaster,
    wait_until_ready,
)

__all__ = [
    "Account",
    "PostgresError",
    "Postmaster",
    "account_for",
    "binary",
    "free_port",
    "initialize",
    "launch",
    "read_postmaster",
    "stop_postmaster",
    "wait_until_ready",
]
