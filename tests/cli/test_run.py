"""``guardian run``: one service in a process of its own."""

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from cli.migrate import migrate
from cli.system import SERVICES
from deploy.postgres import free_port
from shared.auth import Principal
from shared.ids import new_id
from shared.settings import Settings
from tests.cli.service import ROOT, RunningService

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]
WRITER = Principal(
    new_id(), "user", str(new_id()), frozenset({"contacts:write", "contacts:read", "audit:read"}), request_id="test"
)

LOADED = """
import json, sys
from shared.settings import Settings
settings = Settings(environment="test", database_url="postgresql://nobody@127.0.0.1:1/none")
{code}
print(json.dumps(sorted(name for name in sys.modules if name.startswith(("services.", "gateway", "alembic")))))
"""
SERVICE = """
import cli.run
from cli.system import SERVICES
service = next(each for each in SERVICES if each.name == {name!r})
service.load("create_app")(settings)
if service.schema:
    service.load("worker")(settings)
"""
GATEWAY = """
import cli.run
from cli.hosting import load_gateway, load_proxies
from cli.system import SERVICES
found = settings.model_copy(update={"upstreams": {each.name: "http://127.0.0.1:1" for each in SERVICES}})
load_gateway(settings, load_proxies(found))
"""
SUPERVISOR = "import cli.split"


def _loaded(code: str) -> set[str]:
    """Which of the packages that matter here a fresh process has loaded after ``code``."""
    script = LOADED.replace("{code}", code)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    names: list[str] = json.loads(done.stdout)
    return {".".join(name.split(".")[: 2 if name.startswith("services.") else 1]) for name in names}


@pytest.mark.parametrize("name", [service.name for service in SERVICES])
def test_a_process_imports_its_own_service_only(name: str) -> None:
    assert _loaded(SERVICE.format(name=name)) == {f"services.{name}"}


def test_the_gateways_process_imports_no_service() -> None:
    assert _loaded(GATEWAY) == {"gateway"}


def test_the_supervisor_imports_neither() -> None:
    assert _loaded(SUPERVISOR) == set()


def test_it_says_at_readyz_that_it_stops_and_finishes_what_was_begun(fresh_database: str, tmp_path: Path) -> None:
    environment = {"DATABASE_URL": fresh_database, "GUARDIAN_DRAIN_SECONDS": "2"}
    with RunningService("crm", tmp_path, **environment) as service:
        service.until_ready()
        assert service.call("POST", "/v1/contacts", WRITER, first_name="Ada").status_code == 201
        assert service.status()["worker"]["ready"]
        assert "guardian_events_published_total" in httpx.get(f"{service.url}/metrics").text
        with socket.create_connection(("127.0.0.1", service.port)) as slow:
            slow.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
            ending = threading.Thread(target=service.stop)
            ending.start()
            service.until(lambda: service.get("/readyz") == 503, 5)
            assert service.get("/livez") == 200
            time.sleep(0.1)
            slow.sendall(b"\r\n")
            assert slow.recv(100).startswith(b"HTTP/1.1 200")
        ending.join()
        assert service.process.returncode == 0, service.said


def test_api_and_worker_apart(fresh_database: str, tmp_path: Path) -> None:
    home = {"DATABASE_URL": fresh_database}
    with (
        RunningService("crm", tmp_path, "--role", "api", **home) as crm,
        RunningService("crm", tmp_path, "--role", "worker", **home) as relaying,
        RunningService("audit", tmp_path, "--role", "worker", **home) as recording,
        RunningService("audit", tmp_path, "--role", "api", **home) as audit,
    ):
        for each in (crm, relaying, recording, audit):
            each.until_ready()
        contact = crm.call("POST", "/v1/contacts", WRITER, first_name="Ada").json()
        path = f"/v1/audit/events?target_id={contact['id']}"
        (entry,) = audit.until(lambda: audit.call("GET", path, WRITER).json()["data"])
        assert entry["action"] == "contact.created"
        assert relaying.call("GET", "/v1/contacts", WRITER).status_code == 404
        seen = audit.status()["worker"]
        assert [(each["group"], each["state"], each["lag"]) for each in seen["consumers"]] == [
            ("audit", "elsewhere", 0)
        ]
        assert crm.status()["worker"]["tasks"] == {}
        assert recording.status()["worker"]["consumers"][0]["state"] == "running"
        assert [each.stop() for each in (crm, relaying, recording, audit)] == [0, 0, 0, 0]


async def test_it_waits_for_its_tables_and_says_what_to_do(empty_database: str, tmp_path: Path) -> None:
    with RunningService("crm", tmp_path, DATABASE_URL=empty_database) as service:
        service.until(lambda: "Run: guardian migrate" in service.said)
        assert service.get("/livez") == 0
        await migrate(Settings.model_validate({"environment": "test", "database_url": empty_database}))
        service.until_ready()
        assert service.said.count("Run: guardian migrate") == 1
        assert service.stop() == 0


def test_it_starts_and_stops_while_everything_is_away(tmp_path: Path) -> None:
    away = {
        "DATABASE_URL": f"postgresql://nobody:nothing@127.0.0.1:{free_port()}/none",
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",
    }
    with RunningService("audit", tmp_path, **away) as service:
        service.until(lambda: service.get("/livez") == 200)
        assert service.get("/readyz") == 503
        assert service.status()["database"]["reachable"] is False
        service.until(lambda: "bus_away" in service.said)
        assert service.stop() == 0, service.said
        assert "Traceback" not in service.said
        assert "nothing" not in service.said.replace("nothing is lost", "")


def test_a_broker_that_is_away_is_said_once_and_in_the_status(fresh_database: str, tmp_path: Path) -> None:
    servers = f"127.0.0.1:{free_port()}"
    environment = {"DATABASE_URL": fresh_database, "KAFKA_BOOTSTRAP_SERVERS": servers}
    with RunningService("crm", tmp_path, **environment) as service:
        service.until_ready()
        assert service.call("POST", "/v1/contacts", WRITER, first_name="Ada").status_code == 201
        service.until(lambda: service.status()["worker"]["bus_error"])
        worker = service.status()["worker"]
        assert (worker["bus"], worker["unsent"]) == ("kafka", 1)
        assert servers in worker["bus_error"]
        assert service.status()["database"]["reachable"]
        assert service.said.count("bus_away") == 1
        assert service.stop() == 0
        assert "Traceback" not in service.said


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("crm",), {}, "crm needs DATABASE_URL"),
        (("gateway",), {}, "gateway needs DATABASE_URL"),
        (
            ("gateway",),
            {"DATABASE_URL": "postgresql://u@127.0.0.1:1/x"},
            "GUARDIAN_UPSTREAMS does not say where to find",
        ),
        (("nobody",), {}, "there is no service 'nobody'; there are gateway, identity"),
        (("health", "--role", "worker"), {}, "health has no worker"),
        (("crm",), {"GUARDIAN_ENVIRONMENT": "production"}, "GUARDIAN_SECRET_KEY must be set"),
    ],
    ids=str,
)
def test_what_is_missing_is_said_in_a_sentence(
    arguments: tuple[str, ...], environment: dict[str, str], said: str, tmp_path: Path
) -> None:
    with RunningService(arguments[0], tmp_path, *arguments[1:], **environment) as service:
        assert service.process.wait(timeout=60) == 1
        assert said in service.said
        assert "Traceback" not in service.said
