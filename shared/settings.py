"""Settings, read once from the environment; ``.env.example`` lists every variable (a test compares)."""

import hashlib
import hmac
import re
import ssl
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

DEVELOPMENT_SECRET = "development-only-secret-that-production-refuses"  # noqa: S105 (refused below)

_OPTIONAL = ("sasl_username", "sasl_password", "ssl_cafile", "ssl_certfile", "ssl_keyfile")
_BROKER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")

S = TypeVar("S", bound=BaseSettings)


class InvalidSettings(Exception):
    """Which environment variables are wrong, and how."""


def from_environment(kind: type[S]) -> S:
    """The settings of one class; raises ``InvalidSettings`` with a line for each variable that is wrong."""
    prefix = kind.model_config["env_prefix"]

    def explain(location: tuple[int | str, ...], message: str) -> str:
        name = str(location[0]) if location else ""
        variable = name if name.isupper() else f"{prefix}{name.upper()}"
        text = message.removeprefix("Value error, ")
        return f"{variable}: {text}" if location else text

    try:
        return kind()
    except ValidationError as error:
        raise InvalidSettings("\n".join(explain(each["loc"], each["msg"]) for each in error.errors())) from None
    except SettingsError as error:  # a list or an object whose JSON cannot be read
        name = next((each for each in kind.model_fields if f'"{each}"' in str(error)), "")
        raise InvalidSettings(f"{prefix}{name.upper()}: must be JSON, as in .env.example") from None


class Settings(BaseSettings):
    """Everything that can be configured, with defaults that are safe on a laptop."""

    model_config = SettingsConfigDict(env_prefix="GUARDIAN_", frozen=True, populate_by_name=True, extra="ignore")

    environment: Literal["development", "test", "production"] = Field(
        "development", description="production refuses default secrets and turns the demo off"
    )
    home: Path = Field(Path(".guardian"), description="folder that holds all local state")
    host: str = Field("127.0.0.1", description="address the gateway listens on")
    port: int = Field(8080, ge=1, le=65535, description="port the gateway listens on")
    public_url: str | None = Field(None, description="base URL people reach the gateway at; used in mails")
    secret_key: SecretStr = Field(
        SecretStr(DEVELOPMENT_SECRET), description="root secret (>= 32 characters); other keys derive from it"
    )
    database_url: SecretStr | None = Field(
        None, validation_alias="DATABASE_URL", description="PostgreSQL, as owner; embedded when unset"
    )
    database_pool_size: int = Field(6, ge=1, le=64, description="connections per service and process")
    database_statement_timeout_ms: int = Field(8000, ge=100, description="a statement is cancelled after this")
    upstreams: dict[str, str] = Field({}, description="base URLs of services that are processes of their own, by name")
    drain_seconds: float = Field(
        0.0,
        ge=0,
        le=5,
        description="how long a process that is told to stop says so at /readyz before it closes its door",
    )
    kafka_bootstrap_servers: str | None = Field(
        None, validation_alias="KAFKA_BOOTSTRAP_SERVERS", description="switches the event bus to Kafka"
    )
    kafka_prefix: str = Field(
        "guardian",
        validation_alias="KAFKA_PREFIX",
        description="first part of every topic and group, so that platforms can share a cluster",
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", validation_alias="KAFKA_SECURITY_PROTOCOL", description="how to speak to the brokers"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", validation_alias="KAFKA_SASL_MECHANISM", description="how to sign in to the brokers"
    )
    kafka_sasl_username: str | None = Field(
        None, validation_alias="KAFKA_SASL_USERNAME", description="user of the brokers"
    )
    kafka_sasl_password: SecretStr | None = Field(
        None, validation_alias="KAFKA_SASL_PASSWORD", description="password of that user"
    )
    kafka_ssl_cafile: Path | None = Field(
        None, validation_alias="KAFKA_SSL_CAFILE", description="authorities that sign brokers; the machine's when unset"
    )
    kafka_ssl_certfile: Path | None = Field(
        None, validation_alias="KAFKA_SSL_CERTFILE", description="our certificate, where brokers ask for one"
    )
    kafka_ssl_keyfile: Path | None = Field(None, validation_alias="KAFKA_SSL_KEYFILE", description="its key")
    event_retention_days: int = Field(7, ge=1, le=3650, description="how long the event log keeps an event")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least level logged")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal")
    trace_sample_ratio: float = Field(0.05, ge=0, le=1, description="share of requests whose spans are kept")
    otlp_endpoint: str | None = Field(None, description="OTLP/HTTP collector; no spans are exported when unset")
    max_body_bytes: int = Field(1_048_576, ge=1024, description="largest request body")
    request_timeout_seconds: float = Field(10.0, gt=0, description="deadline of a request at the gateway")
    credential_grace_seconds: float = Field(
        0.0,
        ge=0,
        le=300,
        description="how long callers that are known go on while the database is away; a gateway that is cut off may then "
        "accept a revoked key for as long. 0: nobody goes on",
    )
    header_timeout_seconds: float = Field(10.0, gt=0, description="a request's headers must arrive within this")
    body_timeout_seconds: float = Field(
        20.0, gt=0, description="a request's body must arrive within this, plus a second per 4 KiB"
    )
    idle_timeout_seconds: float = Field(
        5.0, gt=0, description="a kept connection without a request is closed after this"
    )
    connections_per_address: int = Field(256, ge=1, description="open connections one client address may hold")
    metrics_public: bool = Field(False, description="answer /metrics to everybody, not only this machine and proxies")
    trusted_proxies: list[str] = Field([], description="addresses whose Forwarded headers are believed")
    cors_origins: list[str] = Field([], description="origins that may call the API from a browser")
    default_plan: str = Field(
        "enterprise",
        pattern=r"^[a-z][a-z0-9-]{0,62}$",
        description="plan of the organisations that were given none (guardian plans)",
    )
    smtp_url: SecretStr | None = Field(
        None, description="smtp://user:password@host:port; unset: mails go to a mailbox under the home"
    )
    mail_from: str = Field("Guardian <no-reply@localhost>", description="sender of the platform's mails")
    demo: bool = Field(True, description="make the demo organisations on the first start (development only)")
    demo_history: bool = Field(True, description="load a year of CRM history into the first of them")

    @field_validator("kafka_bootstrap_servers", *(f"kafka_{each}" for each in _OPTIONAL), mode="before")
    @classmethod
    def _blank_is_unset(cls, value: object) -> object:
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _are_brokers(cls, value: str | None) -> str | None:
        brokers = [each.strip() for each in value.split(",")] if value is not None else []
        for broker in brokers:
            found = _BROKER.fullmatch(broker)
            if found is None or not 1 <= int(found["port"]) <= 65535:
                raise ValueError(
                    f'must look like broker-1:9092,broker-2:9092, with ports from 1 to 65535; "{broker}" does not'
                )
        return ",".join(brokers) or None

    @field_validator("kafka_prefix")
    @classmethod
    def _can_begin_a_topic(cls, value: str) -> str:
        if not re.fullmatch("[a-z][a-z0-9-]{0,99}", value):
            raise ValueError("must be lower-case letters, digits and hyphens, a letter first, 100 at most")
        return value

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must look like postgresql://user:password@host:5432/database")
        return value

    @field_validator("upstreams")
    @classmethod
    def _are_urls(cls, value: dict[str, str]) -> dict[str, str]:
        for name, url in value.items():
            if not url.startswith(("http://", "https://")):
                raise ValueError(f'the address of {name} must look like "http://{name}:8000"')
        return {name: url.rstrip("/") for name, url in value.items()}

    @model_validator(mode="after")
    def _refuse_default_secrets(self) -> Self:
        secret = self.secret_key.get_secret_value()
        if self.environment == "production" and (secret == DEVELOPMENT_SECRET or len(secret) < 32):
            raise ValueError(
                "GUARDIAN_SECRET_KEY must be set to at least 32 characters of your own in production; "
                "make one with: openssl rand -base64 48"
            )
        return self

    @model_validator(mode="after")
    def _refuse_a_security_that_cannot_work(self) -> Self:
        signs_in = self.kafka_security_protocol.startswith("SASL")
        if signs_in and (self.kafka_sasl_username is None or self.kafka_sasl_password is None):
            protocol = self.kafka_security_protocol
            raise ValueError(f"KAFKA_SECURITY_PROTOCOL={protocol} needs KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD")
        authorities, ours, key = self.kafka_ssl_cafile, self.kafka_ssl_certfile, self.kafka_ssl_keyfile
        if key is not None and ours is None:
            raise ValueError("KAFKA_SSL_KEYFILE needs KAFKA_SSL_CERTFILE, the certificate it is the key of")
        named, context = f"KAFKA_SSL_CAFILE={authorities}", ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if authorities is not None:
                context.load_verify_locations(authorities)
            if ours is not None:
                named = f"KAFKA_SSL_CERTFILE={ours}, KAFKA_SSL_KEYFILE={key or ''}"
                # With a password of none: nobody is to be asked for one at a terminal.
                context.load_cert_chain(ours, key, password="")
        except OSError as error:  # ssl.SSLError is one
            raise ValueError(f"{named} must be PEM, a key without password: {error.strerror}") from error
        return self

    def derive_key(self, purpose: str) -> bytes:
        """A 32-byte key for one purpose (HKDF-Expand of RFC 5869 with one block)."""
        secret = self.secret_key.get_secret_value().encode()
        return hmac.new(secret, purpose.encode() + b"\x01", hashlib.sha256).digest()

    def service_password(self, role: str) -> str:
        """The database password of a service's role, derived so that no second secret is kept."""
        return self.derive_key(f"database-role:{role}").hex()

    @property
    def base_url(self) -> str:
        """Where people reach the gateway, without a trailing slash."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")
