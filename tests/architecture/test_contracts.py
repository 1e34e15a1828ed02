"""The import contracts hold, and every kind of violation is reported when it is made on purpose."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .rules import PRODUCTION, ROOT

# file -> what it says, and the words of the report that must name it
_VIOLATIONS: dict[str, tuple[str, str]] = {
    "services/alpha/service.py": ("import services.beta.models", "services.alpha.service -> services.beta.models"),
    "gateway/rogue.py": ("import services.alpha.domain", "gateway.rogue -> services.alpha.domain"),
    "shared/rogue.py": ("import gateway.rogue", "shared.rogue -> gateway.rogue"),
    "services/beta/jobs.py": ("import cli.rogue", "services.beta.jobs -> cli.rogue"),
    "services/alpha/repository.py": (
        "import services.alpha.service",
        "services.alpha.repository -> services.alpha.service",
    ),
    "services/alpha/api.py": ("import sqlalchemy", "services.alpha.api -> sqlalchemy"),
    "services/alpha/feature/schemas.py": ("import asyncpg", "services.alpha.feature.schemas -> asyncpg"),
    "services/alpha/feature/service.py": ("import fastapi", "services.alpha.feature.service -> fastapi"),
    "services/alpha/domain.py": ("import shared.db", "services.alpha.domain -> shared.db"),
    "services/alpha/consumers.py": ("import aiokafka", "services.alpha.consumers -> aiokafka"),
    "services/alpha/events.py": ("import slowapi", "services.alpha.events -> slowapi"),
    "cli/rogue.py": ("import shared.testing", "cli.rogue -> shared.testing"),
    "shared/ring_a.py": ("import shared.ring_b", "ring_a"),
    "shared/ring_b.py": ("import shared.ring_a", "ring_b"),
}


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), "COLUMNS": "400", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the linter says of a copy of the project with every violation in it."""
    folder = tmp_path_factory.mktemp("copy")
    for name in PRODUCTION:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for package in ("services/alpha", "services/alpha/feature", "services/beta"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
    (folder / "services/beta/models.py").touch()
    for path, (source, _reported) in _VIOLATIONS.items():
        (folder / path).write_text(source + "\n")
    result = _lint(folder)
    assert result.returncode == 1, result.stdout + result.stderr
    return re.sub(r"\s+", " ", result.stdout)


def test_the_contracts_hold() -> None:
    result = _lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    kept = re.search(r"Contracts: (\d+) kept, 0 broken", result.stdout)
    assert kept is not None
    assert int(kept.group(1)) >= 8


@pytest.mark.parametrize("path", _VIOLATIONS)
def test_a_violation_is_reported(report: str, path: str) -> None:
    assert _VIOLATIONS[path][1] in report


def test_every_contract_can_break(report: str) -> None:
    assert re.search(r"Contracts: 0 kept, \d+ broken", report)
