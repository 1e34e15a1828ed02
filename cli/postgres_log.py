"""What the embedded server said when it could not start, and what a person can do about it."""

import time
from pathlib import Path

_FLUSH_SECONDS = 1.0
_TAIL = 4000  # characters


def lengths(folder: Path) -> dict[Path, int]:
    """How long each log below ``<home>/postgres`` is now, in bytes; for ``said_since``."""
    return {path: path.stat().st_size for path in (folder / "log").glob("*.log")}


def said_since(folder: Path, before: dict[Path, int]) -> str:
    """What a server that failed said since ``lengths``: in its own log, and what came before it had one (start.log).

    Its last words pass through another process, so they are waited for (at most a second).
    """
    deadline = time.monotonic() + _FLUSH_SECONDS
    while True:
        newest = max((folder / "log").glob("*.log"), key=lambda path: path.stat().st_mtime, default=None)
        said = [(newest, before.get(newest, 0))] if newest is not None else []
        said += [(folder / "start.log", 0)] if (folder / "start.log").exists() else []
        text = "\n".join(_text(path, begin)[-_TAIL:] for path, begin in said)
        if "FATAL" in text or "PANIC" in text or time.monotonic() > deadline:
            return text
        time.sleep(0.02)


def _text(path: Path, begin: int) -> str:
    content = path.read_bytes()
    # A log that became shorter was begun anew.
    return content[begin if begin <= len(content) else 0 :].decode(errors="replace")


def explain_error(error: OSError, home: Path) -> str:
    """A sentence for people about a file of ``home`` that could not be written."""
    if error.errno in {28, 122}:  # ENOSPC, EDQUOT
        return explain_log("No space left on device", home)
    return (
        f"{home} cannot be written ({error.strerror}). Set GUARDIAN_HOME to a folder you may write, "
        f"for example: GUARDIAN_HOME=~/.guardian make run"
    )


def explain_log(said: str, home: Path) -> str:
    """A sentence for people about what the server of ``home`` said."""
    folder = home / "postgres"
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return (
            f"the disk of {home} is full. Free some space (df -h {home}) and start again; nothing that was "
            "acknowledged is lost. Or set GUARDIAN_HOME to a folder on another disk."
        )
    if "Read-only file system" in said or "Permission denied" in said:
        return f"it may not write to {folder}. Check who owns the folder, or choose another GUARDIAN_HOME."
    if "could not look up effective user ID" in said:
        return "this user id has no entry in the passwd file, which PostgreSQL needs. Run as a named user."
    if "incompatible with server" in said or "not compatible with this version" in said:
        return f"the data in {folder / 'data'} was made by another major version of PostgreSQL. Use that release to export it."
    if "could not create shared memory" in said or "could not resize shared memory" in said:
        return "the machine has too little shared memory (in Docker: --shm-size=128m)."
    lines = [line for line in said.splitlines() if "FATAL" in line or "error" in line.lower() or "PANIC" in line]
    last = lines[-1].strip() if lines else "it gave no reason"
    return f"{last} (log: {folder / 'log'})"
