"""The containers without an engine: the image's files, the compose file's commands and variables, real processes."""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from cli.postgres import EmbeddedPostgres
from cli.system import SERVICES
from deploy.alive import main as alive
from deploy.postgres import free_port
from tests.deploy.compose import COMPOSE, copy_application, environment

NAMES = [service.name for service in SERVICES]
SECRETS = {"GUARDIAN_SECRET_KEY": "a key of forty-eight characters, as openssl does", "POSTGRES_PASSWORD": "replaced"}
# The image's `guardian`, with the image's modules and the installed packages and nothing else to import.
_GUARDIAN = "import sys; sys.path[:0] = {paths!r}; from cli.main import app; app()"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Not below pytest's folders: those are private, and PostgreSQL runs as another account when we are root."""
    with tempfile.TemporaryDirectory(prefix="guardian-containers-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


class Containers:
    """Processes with the commands and the variables of the compose file; only addresses are replaced."""

    def __init__(self, app: Path, dsn: str, kafka: Mapping[str, str]) -> None:
        self.app = app
        self.ports = {name: free_port() for name in ["gateway", *NAMES]}
        self._dsn = dsn
        self._kafka = kafka

    def start(self, name: str) -> subprocess.Popen[bytes]:
        program, *arguments = COMPOSE["services"][name]["command"]
        assert program == "guardian"
        code = _GUARDIAN.format(paths=[str(self.app), sysconfig.get_path("purelib")])
        with (self.app / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-S", "-c", code, *arguments],
                cwd=self.app, env=self._environment(name), stdout=log, stderr=log,
            )  # fmt: skip

    def _environment(self, name: str) -> dict[str, str]:
        given = environment(name, SECRETS) | {"GUARDIAN_HOST": "127.0.0.1", "GUARDIAN_HOME": str(self.app / "home")}
        given["GUARDIAN_PORT"] = str(self.ports.get(name, 8000))
        server = self._dsn.rpartition("@")[2]
        # Services sign in as themselves; the migration is given the owner.
        given["DATABASE_URL"] = self._dsn if "@" in given["DATABASE_URL"] else f"postgresql://{server}"
        if "GUARDIAN_UPSTREAMS" in given:
            named = json.loads(given["GUARDIAN_UPSTREAMS"])
            given["GUARDIAN_UPSTREAMS"] = json.dumps({n: f"http://127.0.0.1:{self.ports[n]}" for n in named})
        return given | dict(self._kafka) | {"PATH": os.environ["PATH"]}

    def healthy(self, name: str) -> bool:
        """What its health check says, run as the container would run it."""
        ask = [sys.executable, *COMPOSE["services"][name]["healthcheck"]["test"][2:]]
        where = {"GUARDIAN_PORT": str(self.ports[name]), "PYTHONPATH": str(self.app)}
        return subprocess.run(ask, cwd=self.app, env=where, check=False).returncode == 0

    def said(self, name: str) -> str:
        return (self.app / f"{name}.log").read_text(errors="replace")[-3000:]


@pytest.fixture(scope="module")
def containers(folder: Path, kafka_servers: str) -> Iterator[Containers]:
    """Every container of the compose file, started in its order."""
    app = folder / "app"
    app.mkdir()
    copy_application(app)
    with ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(folder / "home"))
        kafka = {"KAFKA_BOOTSTRAP_SERVERS": kafka_servers, "KAFKA_PREFIX": f"compose-{os.getpid()}"}
        made = Containers(app, postgres.dsn, kafka)
        assert made.start("migrate").wait(60) == 0, made.said("migrate")
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(_stop, processes)
        for group in (NAMES, ["gateway"]):
            processes += [made.start(name) for name in group]
            for name in group:
                _until(lambda: made.healthy(name), lambda: made.said(name))  # noqa: B023 (called at once)
        yield made


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    psutil.wait_procs([psutil.Process(process.pid) for process in processes], timeout=30)
    for process in processes:
        process.kill()
        process.wait()


def _until(condition: Callable[[], bool], said: Callable[[], str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, said()
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(240)  # whichever is first starts seven processes
def test_the_containers_are_a_platform(containers: Containers) -> None:
    base = f"http://127.0.0.1:{containers.ports['gateway']}"
    with httpx.Client(base_url=base, timeout=15) as client:
        body = {"organization": "Engines", "data_region": "eu", "name": "Ada", "password": "correct horse battery"}
        answer = client.post("/v1/sign-up", json=body | {"email": "ada@example.com"})
        assert answer.status_code == 201, (answer.text, containers.said("identity"))
        # The cookie is for https only, which a proxy in front of the gateway would speak.
        cookie = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}

        def audited() -> bool:
            return bool(
                client.get("/v1/audit/events", params={"action": "user.signed_up"}, headers=cookie).json()["data"]
            )

        _until(audited, lambda: containers.said("audit"))
        report = client.get("/v1/health").json()
        assert report["status"] == "ok", report


def test_a_container_whose_process_does_not_answer_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDIAN_PORT", str(free_port()))
    assert alive() == 1


@pytest.mark.slow
@pytest.mark.timeout(240)  # whichever is first starts seven processes
def test_a_container_whose_process_answers_is_healthy(containers: Containers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDIAN_PORT", str(containers.ports["crm"]))
    assert alive() == 0
