"""Settings: production refuses what is only good enough for a laptop."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
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


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("", None),
        ("  ", None),
        ("broker-1:9092", "broker-1:9092"),
        (" a:1, b:65535 ", "a:1,b:65535"),
        ("[::1]:9092", "[::1]:9092"),
    ],
)
def test_the_brokers_are_hosts_with_ports(given: str, means: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", given)
    assert Settings().kafka_bootstrap_servers == means


@pytest.mark.parametrize(
    "given",
    ["broker", "broker:", ":9092", "a:1,", "a:1,,b:1", "a:0", "a:65536", "kafka://a:1", "a:1/x", "a b:1", "::1:9092"],
)
def test_other_brokers_are_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", given)
    with pytest.raises(ValidationError, match=r"must look like broker-1:9092,broker-2:9092, .* does not"):
        Settings()


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"KAFKA_PREFIX": "My.Platform"}, "must be lower-case letters, digits and hyphens"),
        ({"KAFKA_PREFIX": "guardian\n"}, "must be lower-case letters"),
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT"}, "needs KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"),
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_USERNAME": "me", "KAFKA_SASL_PASSWORD": ""}, "needs KAFKA_SASL"),
        ({"KAFKA_SSL_CAFILE": "/nowhere.pem"}, "KAFKA_SSL_CAFILE=/nowhere.pem must be .*: No such file"),
        ({"KAFKA_SSL_CERTFILE": "/"}, "KAFKA_SSL_CERTFILE=/, KAFKA_SSL_KEYFILE= must be"),
        ({"KAFKA_SSL_CAFILE": __file__}, "KAFKA_SSL_CAFILE=.* must be PEM"),
        ({"KAFKA_SSL_CERTFILE": __file__, "KAFKA_SSL_KEYFILE": __file__}, "KAFKA_SSL_CERTFILE=.*, KAFKA_SSL_KEYFILE=.* must"),
        ({"KAFKA_SSL_KEYFILE": __file__}, "KAFKA_SSL_KEYFILE needs KAFKA_SSL_CERTFILE"),
    ],
)  # fmt: skip
def test_settings_of_kafka_that_cannot_work_are_refused(
    environment: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=says):
        Settings()


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    secret = serialization.BestAvailableEncryption(b"secret")
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    with pytest.raises(ValidationError, match="a key without password"):
        Settings(kafka_ssl_certfile=path, kafka_ssl_keyfile=path)
