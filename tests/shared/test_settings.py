"""Settings: production refuses what is only good enough for a laptop."""

import pytest
from pydantic import SecretStr, ValidationError

from shared.settings import DEVELOPMENT_SECRET, Settings


@pytest.mark.parametrize("secret", [DEVELOPMENT_SECRET, "short", ""])
def test_production_refuses_a_default_or_short_secret(secret: str) -> None:
    with pytest.raises(ValidationError, match="GUARDIAN_SECRET_KEY must be set"):
        Settings(environment="production", secret_key=SecretStr(secret))


def test_production_takes_a_secret_of_its_own() -> None:
    assert Settings(environment="production", secret_key=SecretStr("x" * 40)).environment == "production"


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDIAN_PORT", "9000")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@h/d")
    settings = Settings()
    assert settings.port == 9000
    assert settings.database_url is not None
    assert settings.base_url == "http://127.0.0.1:9000"


def test_secrets_do_not_show() -> None:
    settings = Settings(
        secret_key=SecretStr("planted-secret-value"), database_url=SecretStr("postgresql://u:planted@h/d")
    )
    assert "planted" not in repr(settings)


def test_keys_differ_by_purpose_and_by_secret() -> None:
    one, two = Settings(secret_key=SecretStr("a" * 40)), Settings(secret_key=SecretStr("b" * 40))
    keys = {one.derive_key("x"), one.derive_key("y"), two.derive_key("x")}
    assert len(keys) == 3
    assert {len(key) for key in keys} == {32}
    assert one.derive_key("x") == one.derive_key("x")


def test_the_public_url_wins_over_the_address() -> None:
    assert Settings(public_url="https://crm.example/").base_url == "https://crm.example"
