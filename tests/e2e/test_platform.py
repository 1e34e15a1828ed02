"""A newcomer's path: start, call, see the row, the event and the audit entry, stop, start again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from cli.postgres import EmbeddedPostgres
from tests.e2e.platform import ROOT, RunningPlatform, wait_for

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


def test_stop_leaves_nothing_and_the_data_is_there_on_the_next_start(own_platform: RunningPlatform) -> None:
    own_platform.start()
    with own_platform.client() as client:
        contact = client.post("/v1/contacts", json={"first_name": "Ada"}).json()
    key = own_platform.demo["organizations"][0]["api_key"]
    assert own_platform.stop(signal.SIGINT) == 0, own_platform.tail()
    assert _working_in(own_platform.home) == []
    own_platform.start()
    assert own_platform.demo["organizations"][0]["api_key"] == key
    with own_platform.client() as client:
        assert client.get(f"/v1/contacts/{contact['id']}").json() == contact


def test_a_busy_port_is_said_in_a_sentence(platform: RunningPlatform, own_platform: RunningPlatform) -> None:
    own_platform.port = platform.port
    own_platform._environment["GUARDIAN_PORT"] = str(platform.port)
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
    command = [sys.executable, "-m", "cli.main", "events", "tail", "--no-follow", "--json", "--subject", contact["id"]]
    environment = {**os.environ, "GUARDIAN_HOME": str(platform.home)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=30)
    (line,) = done.stdout.splitlines()
    event = json.loads(line)
    assert event["type"] == "contact.created"
    assert event["data"]["contact"]["first_name"] == "Tail"


def test_migrate_says_where_the_schemas_stand(platform: RunningPlatform, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "migrate", "--check"]
    for home, status, text in [(platform.home, 0, "newest version"), (tmp_path, 1, "no platform is running")]:
        environment = {**os.environ, "GUARDIAN_HOME": str(home)}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=30
        )
        assert (done.returncode, text in done.stdout) == (status, True), done.stdout + done.stderr


async def test_a_home_of_an_older_release_is_migrated_and_of_a_newer_one_refused(own_platform: RunningPlatform) -> None:
    own_platform.start()
    own_platform.stop()
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
    own_platform._environment["DATABASE_URL"] = "postgresql://nobody:nothing@127.0.0.1:1/none"
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
        ({"KAFKA_BOOTSTRAP_SERVERS": "localhost:9092"}, "no Kafka adapter yet"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_said_in_a_sentence(
    own_platform: RunningPlatform, environment: dict[str, str], said: str
) -> None:
    own_platform._environment.update(environment)
    own_platform.spawn()
    assert own_platform.process is not None
    assert own_platform.process.wait(timeout=30) == 1
    assert said in own_platform.tail()
    assert "Traceback" not in own_platform.tail()
    assert "pydantic" not in own_platform.tail()
