"""How a platform starts, stops and says why it cannot: each test has one of its own, with data of an earlier run."""

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest

from cli.postgres import EmbeddedPostgres
from cli.system import SCHEMAS
from deploy.kafka.broker import Broker
from deploy.kafka.protocol import choose_port
from tests.e2e.platform import KAFKA, POSTGRES, SPLIT, RunningPlatform, is_alive, params, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
whole_and_apart = pytest.mark.parametrize("own_platform", params(POSTGRES, SPLIT), indirect=True)


def test_stop_finishes_what_was_begun_leaves_nothing_and_keeps_the_data(own_platform: RunningPlatform) -> None:
    own_platform.start()
    key = own_platform.demo["organizations"][0]["api_key"]
    processes = own_platform.processes()
    assert len(processes) >= (6 if own_platform.mode.split else 1)
    with _half_a_request(own_platform, key) as (connection, rest):
        assert own_platform.process is not None
        own_platform.process.send_signal(signal.SIGINT)
        wait_for(lambda: not _accepts(own_platform))
        connection.sendall(rest)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))  # to its end: the server closes behind it
        head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201")
    assert own_platform.process.wait(timeout=40) == 0, own_platform.tail()
    assert [each for each in processes if is_alive(each)] == []
    assert _working_in(own_platform.home) == []
    assert not (own_platform.home / "running.json").exists()
    own_platform.start()
    assert own_platform.demo["organizations"][0]["api_key"] == key
    contact = json.loads(body)
    with own_platform.client() as client:
        assert client.get(f"/v1/contacts/{contact['id']}").json() == contact
    wait_for(lambda: own_platform.entries(contact["id"]))


@contextmanager
def _half_a_request(platform: RunningPlatform, key: str) -> Iterator[tuple[socket.socket, bytes]]:
    """A connection with a request under way, and what of its body is still to come."""
    body = json.dumps({"first_name": "Ada"}).encode()
    head = f"POST /v1/contacts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", platform.port)) as connection:
        connection.sendall(head.encode() + body[:5])
        in_flight = "guardian_gateway_in_flight 2.0"  # this one, and the one that asks
        wait_for(lambda: in_flight in platform.get("/metrics").text)
        yield connection, body[5:]


def _accepts(platform: RunningPlatform) -> bool:
    try:
        return platform.get("/livez", timeout=0.5).is_success
    except httpx.TransportError:
        return False


def _working_in(home: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(home) in argument for argument in process.cmdline()):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


@whole_and_apart
def test_a_busy_port_is_said_in_a_sentence(own_platform: RunningPlatform) -> None:
    with socket.create_server(("127.0.0.1", own_platform.port)):
        own_platform.spawn()
        assert own_platform.process is not None
        assert own_platform.process.wait(timeout=30) == 1
    assert f"Port {own_platform.port} is in use" in own_platform.tail()
    assert "Traceback" not in own_platform.tail()


@pytest.mark.parametrize("own_platform", params(POSTGRES), indirect=True)
def test_migrate_without_a_platform_says_so(own_platform: RunningPlatform) -> None:
    done = own_platform.command("migrate", "--check")
    assert (done.returncode, "no platform is running" in done.stdout) == (1, True), done.stdout + done.stderr


@whole_and_apart
async def test_a_home_of_an_older_release_is_migrated_and_of_a_newer_one_refused(own_platform: RunningPlatform) -> None:
    with EmbeddedPostgres(own_platform.home) as postgres:
        connection = await asyncpg.connect(postgres.dsn)
        await connection.execute("DROP SCHEMA audit CASCADE; COMMENT ON SCHEMA bus IS 'older'")
        await connection.close()
    own_platform.start()
    with own_platform.client() as client:
        contact = client.post("/v1/contacts", json={"first_name": "Ada"}).json()
    wait_for(lambda: own_platform.entries(contact["id"]))
    own_platform.stop()
    with EmbeddedPostgres(own_platform.home) as postgres:
        connection = await asyncpg.connect(postgres.dsn)
        await connection.execute("UPDATE crm.alembic_version SET version_num = '9999'")
        await connection.close()
    own_platform.spawn()
    assert own_platform.process is not None
    assert own_platform.process.wait(timeout=30) == 1
    assert "its schema crm is at 9999" in own_platform.tail()
    assert "Traceback" not in own_platform.tail()


@whole_and_apart
def test_a_database_that_is_away_is_said_in_a_sentence(own_platform: RunningPlatform) -> None:
    own_platform.environment["DATABASE_URL"] = "postgresql://nobody:nothing@127.0.0.1:1/none"
    own_platform.spawn()
    assert own_platform.process is not None
    assert own_platform.process.wait(timeout=30) == 1
    assert "The database of DATABASE_URL cannot be used" in own_platform.tail()
    assert "Traceback" not in own_platform.tail()
    assert "nothing" not in own_platform.tail()


@pytest.mark.parametrize("own_platform", params(POSTGRES), indirect=True)
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"GUARDIAN_PORT": "80a"}, "GUARDIAN_PORT: "),
        ({"GUARDIAN_ENVIRONMENT": "production"}, "GUARDIAN_SECRET_KEY must be set"),
        ({"GUARDIAN_ENVIRONMENT": "production", "GUARDIAN_SECRET_KEY": "x" * 40}, "production needs DATABASE_URL"),
        ({"DATABASE_URL": "mysql://localhost/x"}, "DATABASE_URL: must look like postgresql://"),
        ({"GUARDIAN_UPSTREAMS": "crm:8000"}, "GUARDIAN_UPSTREAMS: must be JSON"),
        ({"GUARDIAN_UPSTREAMS": '{"crm":"crm:8000"}'}, "GUARDIAN_UPSTREAMS: the address of crm must look like"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_said_in_a_sentence(
    own_platform: RunningPlatform, environment: dict[str, str], said: str
) -> None:
    own_platform.environment.update(environment)
    own_platform.spawn()
    assert own_platform.process is not None
    assert own_platform.process.wait(timeout=30) == 1
    assert said in own_platform.tail()
    assert "Traceback" not in own_platform.tail()
    assert "pydantic" not in own_platform.tail()


def _bus(platform: RunningPlatform) -> dict[str, Any]:
    with platform.client() as client:
        found: dict[str, Any] = client.get("/v1/health").json()["details"]["bus"]
        return found


@pytest.mark.parametrize("own_platform", params(KAFKA, SPLIT), indirect=True)
def test_a_broker_that_comes_late(own_platform: RunningPlatform) -> None:
    servers = f"127.0.0.1:{choose_port()}"
    own_platform.environment["KAFKA_BOOTSTRAP_SERVERS"] = servers
    own_platform.start()
    with own_platform.client() as client:
        made = [client.post("/v1/contacts", json={"first_name": "Ada"}).json()["id"] for _ in range(20)]
    found = wait_for(lambda: (seen := _bus(own_platform))["status"] == "down" and seen, 30)
    assert servers in found["error"]
    assert "KAFKA_BOOTSTRAP_SERVERS" in found["action"]
    processes = len(SCHEMAS) if own_platform.mode.split else 1
    assert own_platform.said.count("bus_away") == processes, "each process says it once"
    assert "Traceback" not in own_platform.said
    broker = Broker(own_platform.home.with_name("broker"), int(servers.rpartition(":")[2]))
    try:
        broker.start()
        own_platform.has_one_entry_each(made)
        wait_for(lambda: _bus(own_platform)["status"] == "ok", 60)
        assert own_platform.said.count("bus_back") == processes
        assert own_platform.stop() == 0
    finally:
        broker.kill()
