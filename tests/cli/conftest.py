"""Fixtures of the tests of the command line."""

from pathlib import Path

import pytest

from shared.settings import Settings
from tests.cli.embedded import hold, home
from tests.cli.signing import signing

__all__ = ["hold", "home", "signing"]


@pytest.fixture
def operated(fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a migrated database that the commands find."""
    monkeypatch.setenv("DATABASE_URL", fresh_database)
    monkeypatch.setenv("GUARDIAN_HOME", str(tmp_path))
    return Settings.model_validate({"home": tmp_path, "database_url": fresh_database})
