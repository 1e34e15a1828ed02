"""The compose file and the image: valid, hardened, and of the very services that the code declares."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.system import SERVICES
from deploy.kafka import ContainerBroker
from deploy.kafka.engine import IMAGE
from deploy.kafka.settings import CLUSTER_ID, SETTINGS
from deploy.postgres import binary
from services.identity.settings import IdentitySettings
from shared.settings import Settings
from tests.deploy.compose import COMPOSE, ROOT, TEXT, copy_application, environment, instructions, interpolated

CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
NAMES = tuple(service.name for service in SERVICES)
GIVEN = {"GUARDIAN_SECRET_KEY": "k" * 48, "POSTGRES_PASSWORD": "p" * 48}


def test_it_is_a_compose_file() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    arguments = ["--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    result = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_it_holds_the_system_and_what_the_system_needs() -> None:
    assert set(CONTAINERS) == {"gateway", "migrate", "postgres", "kafka", "jaeger", *NAMES}


@pytest.mark.parametrize("name", ["gateway", *NAMES])
def test_every_process_runs_its_service(name: str) -> None:
    assert CONTAINERS[name]["command"] == ["guardian", "run", name]
    given = environment(name, GIVEN)
    assert (given["GUARDIAN_HOST"], given["GUARDIAN_PORT"]) == ("0.0.0.0", "8000")
    assert CONTAINERS[name]["healthcheck"]["test"] == ["CMD", "python", "-m", "deploy.alive"]


@pytest.mark.parametrize("name", ["gateway", "health"])
def test_upstreams_are_the_services(name: str) -> None:
    assert json.loads(environment(name, GIVEN)["GUARDIAN_UPSTREAMS"]) == {n: f"http://{n}:8000" for n in NAMES}


@pytest.mark.parametrize("name", ["gateway", "migrate", *NAMES])
def test_every_variable_is_a_setting_and_reads_as_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        str(field.validation_alias or f"{prefix}{key}".upper())
        for model, prefix in ((Settings, "guardian_"), (IdentitySettings, "guardian_identity_"))
        for key, field in model.model_fields.items()
    }
    given = environment(name, GIVEN)
    assert set(CONTAINERS[name]["environment"]) <= known
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    settings = Settings()
    assert settings.environment == "production"
    assert settings.kafka_bootstrap_servers == "kafka:9092"
    assert settings.base_url == "http://127.0.0.1:8080"


def test_only_the_migration_knows_the_password_of_the_database() -> None:
    holders = {name for name in CONTAINERS if GIVEN["POSTGRES_PASSWORD"] in str(_environment_or_nothing(name))}
    assert holders == {"migrate", "postgres"}


def _environment_or_nothing(name: str) -> dict[str, str]:
    return environment(name, GIVEN) if "environment" in CONTAINERS[name] else {}


@pytest.mark.parametrize("missing", GIVEN)
def test_a_secret_that_is_missing_is_asked_for(missing: str) -> None:
    with pytest.raises(KeyError, match=f"{missing} is missing; put {missing}=... into .env, with what .openssl rand"):
        environment("migrate", {name: value for name, value in GIVEN.items() if name != missing})
    for name in GIVEN:
        assert f"${{{name}:-" not in TEXT, "a secret has no default"


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_is_confined(name: str) -> None:
    container = CONTAINERS[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert "cap_add" not in container
    assert container["security_opt"] == ["no-new-privileges:true"]
    uid, gid = container["user"].split(":")
    assert int(uid) > 0
    assert int(gid) > 0
    limits = container["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory", "pids"}
    assert all(not mount.startswith((".", "/")) for mount in container.get("volumes", [])), "named volumes only"


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_image_is_one_release(name: str) -> None:
    image = CONTAINERS[name]["image"]
    assert re.fullmatch(r"[a-z/]+:\d+\.\d+(\.\d+)?(-[a-z]+)?", image), image
    assert ("build" in CONTAINERS[name]) == image.startswith("guardian:")


def test_the_images_are_the_releases_the_tests_run() -> None:
    said = subprocess.run([binary("postgres"), "--version"], capture_output=True, text=True, check=True).stdout
    assert CONTAINERS["postgres"]["image"].split(":")[1].split("-")[0] == said.split()[-1]
    assert CONTAINERS["kafka"]["image"] == IMAGE
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert CONTAINERS["gateway"]["image"] == f"guardian:{version[1]}"


def test_only_the_gateway_is_reached_from_outside() -> None:
    published = {name: container["ports"] for name, container in CONTAINERS.items() if "ports" in container}
    assert [interpolated(port, {}) for port in published.pop("gateway")] == ["127.0.0.1:8080:8000"]
    # The page with the traces is for this machine, and only when asked for.
    assert published == {"jaeger": ["127.0.0.1:16686:16686"]}
    assert CONTAINERS["jaeger"]["profiles"] == ["tracing"]
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert {n for n, c in CONTAINERS.items() if "outside" in c["networks"]} == {"gateway", "identity", "jaeger"}


def test_everything_starts_after_what_it_needs() -> None:
    for name, container in CONTAINERS.items():
        for needed, how in container.get("depends_on", {}).items():
            finished = needed == "migrate"
            assert how == {"condition": "service_completed_successfully" if finished else "service_healthy"}
            assert finished or CONTAINERS[needed]["healthcheck"]["test"][0] == "CMD", f"{name} waits for {needed}"
    assert set(CONTAINERS["gateway"]["depends_on"]) == {"postgres", "migrate", *NAMES}
    for name in NAMES:
        assert set(CONTAINERS[name]["depends_on"]) == {"postgres", "kafka", "migrate"}
    assert CONTAINERS["migrate"]["restart"] == "no"


def test_the_broker_has_the_settings_of_every_other_broker() -> None:
    given = environment("kafka", GIVEN)
    assert given["CLUSTER_ID"] == CLUSTER_ID
    expected = {f"KAFKA_{name.replace('.', '_').upper()}": str(value) for name, value in SETTINGS.items()}
    assert {name: given.get(name) for name in expected} == expected
    assert {a.partition("=")[0] for a in ContainerBroker().arguments() if a.startswith("KAFKA_")} <= set(given)


class TestImage:
    def test_it_is_built_from_one_release_of_python(self) -> None:
        bases = [rest.split()[0] for name, rest in instructions() if name == "FROM"]
        assert bases == ["python:${PYTHON}"] * 2
        tag = next(rest for name, rest in instructions() if name == "ARG" and rest.startswith("PYTHON="))
        assert re.fullmatch(r"PYTHON=3\.13\.\d+-slim-[a-z]+", tag)

    def test_its_packages_are_the_locked_ones(self) -> None:
        install = next(rest for name, rest in instructions() if name == "RUN" and "install" in rest)
        for option in ("--require-hashes", "--no-deps", "--only-binary :all:", "--requirement /requirements.txt"):
            assert option in install
        assert ("COPY", "requirements/base.txt /requirements.txt") in instructions()

    def test_the_service_is_an_argument_and_the_process_is_told_to_stop(self) -> None:
        names = [name for name, _ in instructions()]
        assert ("ARG", "SERVICE=gateway") in instructions()
        assert ("ENV", "SERVICE=${SERVICE}") in instructions()
        assert instructions()[-1] == ("CMD", r'["sh", "-c", "exec guardian run \"$SERVICE\""]')
        assert "ENTRYPOINT" not in names

    def test_it_runs_as_nobody_in_particular_and_says_how_it_is(self) -> None:
        after = instructions()[[name for name, _ in instructions()].index("USER") :]
        assert after[0] == ("USER", "10001:10001")
        assert not [name for name, _ in after if name in {"RUN", "COPY", "ADD"}], "nothing belongs to the user"
        health = next(rest for name, rest in instructions() if name == "HEALTHCHECK")
        assert health.endswith('CMD ["python", "-m", "deploy.alive"]')

    def test_the_builder_is_sent_nothing_else(self) -> None:
        lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
        assert lines[0] == "*"
        copied = {rest.split()[0] for name, rest in instructions() if name == "COPY" and "--from" not in rest}
        assert {line[1:] for line in lines if line.startswith("!")} == copied

    def test_it_holds_the_code_the_contract_and_not_the_tests(self, tmp_path: Path) -> None:
        copy_application(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "LICENSE", "cli", "deploy", "gateway", "openapi", "services", "shared",
        ]  # fmt: skip
        assert not (tmp_path / "shared" / "testing").exists()
        assert not list(tmp_path.rglob("*.pyc"))
