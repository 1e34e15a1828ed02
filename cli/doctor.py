"""``guardian doctor``: what the platform needs of this machine, in plain words."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.postgres import PostgresError, account_for, binary
from shared.settings import Settings

_MEGABYTE = 2**20
_DISK_MEGABYTES = 1024
_SHARED_MEMORY_MEGABYTES = 64


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``mend`` is the command or the step that mends it, when it is not ``ok``."""

    name: str
    ok: bool
    said: str
    mend: str = ""
    needed: bool = True

    @property
    def stops(self) -> bool:
        """Whether the platform cannot start because of this."""
        return self.needed and not self.ok


Check = Callable[[Settings], Finding]


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; never raises."""
    database = _database if settings.database_url else _postgres
    checks: Sequence[Check] = (
        _python, _uv, _home, _disk, _port, _shared_memory, database, _java, _maven, _chromium,
    )  # fmt: skip
    return [check(settings) for check in checks]


def render(findings: Sequence[Finding]) -> str:
    """For people: one line each, and under it what to do."""
    lines = []
    for finding in findings:
        mark = "✓" if finding.ok else "✗" if finding.needed else "–"
        lines.append(f"{mark} {finding.name}: {finding.said}")
        if not finding.ok and finding.mend:
            lines.append(f"    → {finding.mend}")
    stops = sum(finding.stops for finding in findings)
    lines.append("")
    lines.append(
        f"{stops} of these must be mended before the platform can start."
        if stops
        else "Everything the platform needs is here. Start it with: make run"
    )
    return "\n".join(lines)


def render_json(findings: Sequence[Finding]) -> str:
    """For programs: ``{"ok": …, "findings": [{"name", "ok", "said", "mend", "needed"}]}``."""
    ok = not any(finding.stops for finding in findings)
    return json.dumps({"ok": ok, "findings": [asdict(finding) for finding in findings]}, indent=2)


def _python(_settings: Settings) -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    ok = (3, 11) <= sys.version_info[:2] <= (3, 14)
    return Finding(
        "Python", ok, f"{version} ({sys.executable})", "make clean && GUARDIAN_PYTHON=python3.13 make install"
    )


def _uv(_settings: Settings) -> Finding:
    path = shutil.which("uv") or shutil.which(".cache/uv/bin/uv")
    return Finding("uv", path is not None, path or "not found", "make install (it fetches its own)", needed=False)


def _existing(path: Path) -> Path:
    """The nearest folder on the way to ``path`` that exists."""
    path = path.absolute()
    return path if path.is_dir() else next(parent for parent in path.parents if parent.is_dir())


def _home(settings: Settings) -> Finding:
    folder = _existing(settings.home)
    mend = "choose a folder you may write: GUARDIAN_HOME=~/.guardian make run"
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".guardian-doctor-"):
            pass
    except OSError as error:
        return Finding(
            "Home", ok=False, said=f"{settings.home.absolute()} cannot be written ({error.strerror})", mend=mend
        )
    return Finding("Home", ok=True, said=str(settings.home.absolute()))


def _disk(settings: Settings) -> Finding:
    free = shutil.disk_usage(_existing(settings.home)).free // _MEGABYTE
    said = f"{free:,} MB free at the home, {_DISK_MEGABYTES:,} MB are needed"
    return Finding("Disk", free >= _DISK_MEGABYTES, said, "free some space, or set GUARDIAN_HOME to another disk")


def _port(settings: Settings) -> Finding:
    address = f"{settings.host}:{settings.port}"
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            running = _running_pid(settings.home)
            if running is not None:
                return Finding("Port", ok=True, said=f"{address} is in use by this home's platform (process {running})")
            mend = f"stop what listens there (lsof -i :{settings.port}), or: GUARDIAN_PORT=8081 make run"
            return Finding("Port", ok=False, said=f"{address} cannot be used ({error.strerror})", mend=mend)
    return Finding("Port", ok=True, said=f"{address} is free")


def _running_pid(home: Path) -> int | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        pid = int(json.loads((home / "demo.json").read_text())["pid"])
        os.kill(pid, 0)
        return pid
    return None


def _shared_memory(_settings: Settings) -> Finding:
    folder = Path("/dev/shm")  # noqa: S108 (where Linux keeps shared memory)
    if not folder.is_dir():
        return Finding("Shared memory", ok=True, said="managed by the system", needed=False)
    free = shutil.disk_usage(folder).free // _MEGABYTE
    ok = free >= _SHARED_MEMORY_MEGABYTES
    return Finding("Shared memory", ok, f"{free:,} MB free", "in Docker: run with --shm-size=128m")


def _postgres(settings: Settings) -> Finding:
    name = "PostgreSQL"
    try:
        program = binary("postgres")
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        with tempfile.TemporaryDirectory(dir=_existing(settings.home), prefix=".guardian-doctor-") as folder:
            account, reasons = account_for(Path(folder), program)
    except PostgresError as error:
        return Finding(name, ok=False, said=str(error), mend="make install")
    except subprocess.CalledProcessError as error:
        mend = "the wheel does not fit this system; set DATABASE_URL to a PostgreSQL 18 of your own"
        return Finding(name, ok=False, said=f"its program does not run: {error.stderr.strip()}", mend=mend)
    except OSError as error:
        return Finding(name, ok=False, said=f"could not be tried: {error}", mend="see Home")
    if account is None:
        mend = "run as an ordinary user, or put the project and GUARDIAN_HOME where every account may read"
        return Finding(name, ok=False, said=f"no account can run it ({'; '.join(reasons)})", mend=mend)
    return Finding(name, ok=True, said=version + (f", run as {account.name}" if account.name else ""))


def _database(settings: Settings) -> Finding:
    import asyncpg

    assert settings.database_url is not None  # examine asks only then
    dsn = settings.database_url.get_secret_value()

    async def ask() -> str:
        connection = await asyncpg.connect(dsn, timeout=3)
        try:
            return str(await connection.fetchval("SHOW server_version"))
        finally:
            await connection.close()

    try:
        version = asyncio.run(ask())
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        mend = "check DATABASE_URL and that the server runs, or unset it to use the embedded one"
        return Finding("Database", ok=False, said=f"DATABASE_URL cannot be reached ({error})", mend=mend)
    ok = int(version.split(".")[0]) >= 18
    return Finding("Database", ok, f"PostgreSQL {version} at DATABASE_URL", "use PostgreSQL 18 or newer")


def _program(name: str, command: str, purpose: str, mend: str, *others: str) -> Finding:
    path = next((found for each in (command, *others) if (found := shutil.which(each))), None)
    said = path or f"not found; {purpose}"
    return Finding(name, path is not None, said, mend, needed=False)


def _java(_settings: Settings) -> Finding:
    return _program("Java", "java", "only for a Kafka broker on this machine", "apt install openjdk-17-jre-headless")


def _maven(_settings: Settings) -> Finding:
    return _program("Maven", "mvn", "only for a Kafka broker on this machine", "apt install maven")


def _chromium(_settings: Settings) -> Finding:
    return _program(
        "Chromium", "chromium", "only for browser tests", "apt install chromium",
        "chromium-browser", "google-chrome", "google-chrome-stable",
    )  # fmt: skip
