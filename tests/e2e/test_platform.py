"""A newcomer's path: start, call, see the row, the event and the audit entry, stop, start again."""

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
from tests.e2e.platform import RunningPlatform, is_alive, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def _entries(platform: RunningPlatform, target: str, organization: int = 0) -> list[dict[str, Any]]:
    with platform.client(organization) as client:
        answer = client.get("/v1/audit/events", params={"target_id": target})
        answer.raise_for_status()
        entries: list[dict[str, Any]] = answer.json()["data"]
        return entries


def test_a_call_makes_a_row_an_event_and_one_audit_entry(platform: RunningPlatform) -> None:
    with platform.client() as client:
        made = client.post("/v1/contacts", json={"first_name": "Ada", "email": "ada@example.com"})
        assert made.status_code == 201, made.text
        contact = made.json()
        assert client.get(made.headers["location"]).json() == contact
        changed = client.patch(f"/v1/contacts/{contact['id']}", json={"phone": "+44 20 7946 0000"})
        assert changed.json()["version"] == 2
    entries = wait_for(lambda: len(found := _entries(platform, contact["id"])) == 2 and found)
    assert [entry["action"] for entry in entries] == ["contact.updated", "contact.created"]
    assert entries[1]["target"] == {"type": "contact", "id": contact["id"]}
    assert entries[1]["actor"]["type"] == "api_key"


def test_another_organisation_sees_none_of_it(platform: RunningPlatform) -> None:
    with platform.client(0) as mine, platform.client(1) as theirs:
        contact = mine.post("/v1/contacts", json={"first_name": "Grace"}).json()
        wait_for(lambda: _entries(platform, contact["id"]))
        assert theirs.get(f"/v1/contacts/{contact['id']}").status_code == 404
        assert theirs.get("/v1/contacts", params={"q": "Grace"}).json()["data"] == []
    assert _entries(platform, contact["id"], organization=1) == []


def test_what_the_platform_says_about_itself(platform: RunningPlatform) -> None:
    path = platform.home / "demo.json"
    assert path.stat().st_mode & 0o777 == 0o600
    demo = platform.demo
    assert demo["base_url"] == platform.base_url
    assert len(demo["organizations"]) == 2
    assert {"id", "name", "email", "password", "api_key", "signing_secret"} <= set(demo["organizations"][0])
    with platform.client() as client:
        health = client.get("/v1/health")
        assert health.status_code == 200
        assert client.get("/openapi.json").json()["openapi"].startswith("3.")
        assert "Guardian" in client.get("/").text
        assert client.get("/docs").status_code == 200


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
    wait_for(lambda: _entries(own_platform, contact["id"]))


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


def test_a_busy_port_is_said_in_a_sentence(platform: RunningPlatform, own_platform: RunningPlatform) -> None:
    own_platform.port = platform.port
    own_platform.environment["GUARDIAN_PORT"] = str(platform.port)
    own_platform.spawn()
    assert own_platform.process is not None
    assert own_platform.process.wait(timeout=30) == 1
    assert f"Port {platform.port} is in use" in own_platform.tail()
    assert "Traceback" not in own_platform.tail()


def _working_in(home: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(home) in argument for argument in process.cmdline()):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def test_events_tail_shows_what_a_call_caused(platform: RunningPlatform) -> None:
    with platform.client() as client:
        contact = client.post("/v1/contacts", json={"first_name": "Tail"}).json()
    wait_for(lambda: _entries(platform, contact["id"]))
    done = platform.command("events", "tail", "--no-follow", "--json", "--subject", contact["id"])
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    event = json.loads(line)
    assert event["type"] == "contact.created"
    assert event["data"]["contact"]["first_name"] == "Tail"


def test_migrate_says_where_the_schemas_stand(platform: RunningPlatform) -> None:
    done = platform.command("migrate", "--check")
    assert (done.returncode, "newest version" in done.stdout) == (0, True), done.stdout + done.stderr


def test_migrate_without_a_platform_says_so(own_platform: RunningPlatform) -> None:
    done = own_platform.command("migrate", "--check")
    assert (done.returncode, "no platform is running" in done.stdout) == (1, True), done.stdout + done.stderr


async def test_a_home_of_an_older_release_is_migrated_and_of_a_newer_one_refused(own_platform: RunningPlatform) -> None:
    with EmbeddedPostgres(own_platform.home) as postgres:
        connection = await asyncpg.connect(postgres.dsn)
        await connection.execute("DROP SCHEMA audit CASCADE; COMMENT ON SCHEMA bus IS 'older'")
        await connection.close()
    own_platform.start()
    with own_platform.client() as client:
        contact = client.post("/v1/contacts", json={"first_name": "Ada"}).json()
    wait_for(lambda: _entries(own_platform, contact["id"]))
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


def test_a_database_that_is_away_is_said_in_a_sentence(own_platform: RunningPlatform) -> None:
    own_platform.environment["DATABASE_URL"] = "postgresql://nobody:nothing@127.0.0.1:1/none"
    own_platform.spawn()
    assert own_platform.process is not None
    assert own_platform.process.wait(timeout=30) == 1
    assert "The database of DATABASE_URL cannot be used" in own_platform.tail()
    assert "Traceback" not in own_platform.tail()
    assert "nothing" not in own_platform.tail()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "evil.example"}, 404),
        ({"x-forwarded-for": "203.0.113.9"}, 404),
        ({"via": "1.1 tunnel"}, 404),
    ],
    ids=["this machine", "rebound name", "forwarded", "through a proxy"],
)
def test_the_mailbox_is_for_this_machine_only(platform: RunningPlatform, headers: dict[str, str], status: int) -> None:
    with platform.client() as client:
        assert client.get("/dev/mailbox", headers=headers).status_code == status


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
