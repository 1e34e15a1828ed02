"""A newcomer's path: call, see the row, the event and the audit entry."""

import json

import pytest

from tests.e2e.platform import RunningPlatform, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_a_call_makes_a_row_an_event_and_one_audit_entry(platform: RunningPlatform) -> None:
    with platform.client() as client:
        made = client.post("/v1/contacts", json={"first_name": "Ada", "email": "ada@example.com"})
        assert made.status_code == 201, made.text
        contact = made.json()
        assert client.get(made.headers["location"]).json() == contact
        changed = client.patch(f"/v1/contacts/{contact['id']}", json={"phone": "+44 20 7946 0000"})
        assert changed.json()["version"] == 2
    entries = wait_for(lambda: len(found := platform.entries(contact["id"])) == 2 and found)
    assert [entry["action"] for entry in entries] == ["contact.updated", "contact.created"]
    assert entries[1]["target"] == {"type": "contact", "id": contact["id"]}
    assert entries[1]["actor"]["type"] == "api_key"


def test_another_organisation_sees_none_of_it(platform: RunningPlatform) -> None:
    with platform.client(0) as mine, platform.client(1) as theirs:
        contact = mine.post("/v1/contacts", json={"first_name": "Grace"}).json()
        wait_for(lambda: platform.entries(contact["id"]))
        assert theirs.get(f"/v1/contacts/{contact['id']}").status_code == 404
        assert theirs.get("/v1/contacts", params={"q": "Grace"}).json()["data"] == []
    assert platform.entries(contact["id"], organization=1) == []


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


def test_events_tail_shows_what_a_call_caused(platform: RunningPlatform) -> None:
    with platform.client() as client:
        contact = client.post("/v1/contacts", json={"first_name": "Tail"}).json()
    wait_for(lambda: platform.entries(contact["id"]))
    done = platform.command("events", "tail", "--no-follow", "--json", "--subject", contact["id"])
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    event = json.loads(line)
    assert event["type"] == "contact.created"
    assert event["data"]["contact"]["first_name"] == "Tail"


def test_migrate_says_where_the_schemas_stand(platform: RunningPlatform) -> None:
    done = platform.command("migrate", "--check")
    assert (done.returncode, "newest version" in done.stdout) == (0, True), done.stdout + done.stderr


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
