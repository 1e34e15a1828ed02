"""Every operation of the merged OpenAPI document against every caller that must not get through.

Generated from ``openapi/openapi.yaml``: a new operation is in the matrix without anybody adding it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import httpx
import pytest

from cli.contracts import merged_document, operations
from cli.system import SERVICES
from shared.ids import new_id
from tests.e2e.platform import RunningPlatform, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

_BODIES: dict[str, Any] = {
    "/v1/members/{member_id}": {"role": "viewer"},
    "/v1/limits/policies/{policy_id}/overrides": {"pattern": "key:*", "quota": 1},
}
"""Bodies of operations that have required fields."""

_LIMIT = {"quota": 5, "window": "hour", "per": ["key"], "shadow": True}
"""A limit that refuses nobody anything."""

PUBLIC = frozenset(operation for service in SERVICES for operation in service.public)


@dataclass(frozen=True)
class Operation:
    """One operation of the document."""

    method: str
    path: str
    scope: str | None
    requires_user: bool

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def url(self) -> str:
        """The path with an id that does not exist wherever it asks for one."""
        parts = [str(new_id()) if part.startswith("{") else part for part in self.path.split("/")]
        return "/".join(parts)


@lru_cache(maxsize=1)
def _operations() -> list[Operation]:
    return [
        Operation(method.upper(), path, each.get("x-required-scope"), bool(each.get("x-requires-user")))
        for path, method, each in operations(merged_document())
    ]


PROTECTED = [each for each in _operations() if (each.method, each.path) not in PUBLIC]
SCOPED = [each for each in PROTECTED if each.scope]


def _call(client: httpx.Client, operation: Operation, **headers: str) -> httpx.Response:
    body: Any = {} if operation.method in {"POST", "PATCH", "PUT"} else None
    return client.request(operation.method, operation.url, json=body, headers=headers)


@pytest.fixture(scope="module")
def keys(platform: RunningPlatform) -> dict[str, str]:
    """Keys that must not get through, by what is wrong with them."""
    with platform.client() as client:
        weak = client.post("/v1/api-keys", json={"name": "no scope", "scopes": []})
        assert weak.status_code == 201, weak.text
        revoked = client.post("/v1/api-keys", json={"name": "revoked", "scopes": ["contacts:read"]}).json()
        assert client.delete(f"/v1/api-keys/{revoked['id']}").status_code == 204
        soon = client.post("/v1/api-keys", json={"name": "expired", "scopes": ["contacts:read"], "expires_in": 1})
        assert soon.status_code == 201, soon.text
    found = {"no scope": weak.json()["key"], "revoked": revoked["key"], "expired": soon.json()["key"]}
    for name in ("revoked", "expired"):
        wait_for(lambda name=name: _status(platform, found[name]) == 401, 10)
    return found


def _status(platform: RunningPlatform, key: str) -> int:
    return platform.get("/v1/contacts", headers={"Authorization": f"Bearer {key}"}).status_code


def test_the_matrix_is_not_empty() -> None:
    assert len(PROTECTED) >= 50
    assert all(each.scope or each.requires_user for each in PROTECTED), "an operation asks for nothing"


@pytest.mark.parametrize("operation", PROTECTED, ids=str)
def test_without_a_credential(platform: RunningPlatform, operation: Operation) -> None:
    with platform.anonymous() as client:
        answer = _call(client, operation)
    assert answer.status_code == 401, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "unauthenticated"


@pytest.mark.parametrize("wrong", ["revoked", "expired"])
@pytest.mark.parametrize("operation", PROTECTED, ids=str)
def test_with_a_dead_key(platform: RunningPlatform, keys: dict[str, str], operation: Operation, wrong: str) -> None:
    with platform.anonymous() as client:
        answer = _call(client, operation, Authorization=f"Bearer {keys[wrong]}")
    assert answer.status_code == 401, answer.text
    assert answer.json()["code"] == f"api_key_{wrong}"


@pytest.mark.parametrize("operation", PROTECTED, ids=str)
def test_without_the_scope(platform: RunningPlatform, keys: dict[str, str], operation: Operation) -> None:
    with platform.anonymous() as client:
        answer = _call(client, operation, Authorization=f"Bearer {keys['no scope']}")
    assert answer.status_code == 403, answer.text
    assert answer.json()["code"] in {"missing_scope", "user_required"}


@pytest.mark.parametrize("credential", ["key", "session"])
@pytest.mark.parametrize("operation", [each for each in SCOPED if "{" in each.path], ids=str)
def test_what_belongs_to_another_organisation_does_not_exist(
    platform: RunningPlatform, session: httpx.Client, targets: dict[str, str], operation: Operation, credential: str
) -> None:
    """With a real id of the first organisation, the second gets exactly what an unknown id gets."""
    resource = operation.path.split("/")[2]
    target = targets.get(resource)
    assert target is not None, f"give the test a {resource} of the first organisation"
    with platform.client(1) as keyed:
        client = keyed if credential == "key" else session
        body: Any = _BODIES.get(operation.path, {}) if operation.method in {"POST", "PATCH", "PUT"} else None
        first, *others = re.findall(r"{(\w+)}", operation.path)
        real = operation.path.replace(f"{{{first}}}", target)
        for name in others:
            real = real.replace(f"{{{name}}}", targets[name])
        unknown = operation.url
        answers = [client.request(operation.method, url, json=body) for url in (real, unknown)]
    assert [answer.status_code for answer in answers] == [404, 404], [answer.text for answer in answers]
    problems = [answer.json() for answer in answers]
    for problem in problems:
        del problem["request_id"], problem["instance"]
    assert problems[0] == problems[1]


@pytest.mark.parametrize("operation", PROTECTED, ids=str)
def test_with_a_session_of_another_organisation(
    platform: RunningPlatform, session: httpx.Client, operation: Operation
) -> None:
    """A session sees its own organisation only, whatever organisation the request names."""
    if str(operation) == "DELETE /v1/sessions/current":  # ends the session, and the others need theirs
        session = _sign_in(platform)
    mine = platform.demo["organizations"][0]["id"]
    forged = {"X-Organization-Id": mine, "Guardian-Identity": "v1.gateway.e30=.AA=="}
    answer = _call(session, operation, **forged)
    assert answer.status_code < 500, answer.text
    assert answer.status_code != 401, answer.text
    assert mine not in answer.text
    if str(operation) == "DELETE /v1/sessions/current":
        session.close()


@pytest.fixture(scope="module")
def session(platform: RunningPlatform) -> Iterator[httpx.Client]:
    """Signed in as the owner of the second organisation."""
    client = _sign_in(platform)
    yield client
    client.close()


def _sign_in(platform: RunningPlatform) -> httpx.Client:
    owner = platform.demo["organizations"][1]
    client = platform.anonymous()
    signed_in = client.post("/v1/sessions", json={"email": owner["email"], "password": owner["password"]})
    assert signed_in.status_code == 201, signed_in.text
    return client


@pytest.fixture(scope="module")
def targets(platform: RunningPlatform) -> dict[str, str]:
    """One real row of every resource, in the first organisation; of what lies below one, by the name of its parameter."""
    with platform.client() as client:
        company = client.post("/v1/companies", json={"name": "Target"}).json()
        deal = client.post("/v1/deals", json={"name": "Target"}).json()
        contact = client.post("/v1/contacts", json={"first_name": "Target"}).json()
        limit = client.post("/v1/limits/policies", json=_LIMIT | {"name": f"t-{new_id().hex[-8:]}"}).json()
        exception = client.post(f"/v1/limits/policies/{limit['id']}/overrides", json={"pattern": "key:*", "quota": 5})
        key = client.post("/v1/api-keys", json={"name": "target", "scopes": []}).json()
        signing_key = client.post(f"/v1/api-keys/{key['id']}/signing-keys", json={}).json()
        field = {"record_type": "contact", "key": f"t{new_id().hex[-8:]}", "label": "T", "type": "text"}
        made = {
            "contacts": contact["id"],
            "companies": company["id"],
            "deals": deal["id"],
            "pipelines": deal["pipeline_id"],
            "limits": limit["id"],
            "override_id": exception.json()["id"],
            "activities": client.post("/v1/activities", json={"kind": "note", "subject": "T"}).json()["id"],
            "custom-fields": client.post("/v1/custom-fields", json=field).json()["id"],
            "members": client.get("/v1/members").json()["data"][0]["id"],
            "invitations": client.post(
                "/v1/invitations", json={"email": f"{new_id()}@example.com", "role": "member"}
            ).json()["id"],
            "api-keys": key["id"],
            "signing_key_id": signing_key["id"],
        }
        audit = wait_for(lambda: client.get("/v1/audit/events", params={"target_id": contact["id"]}).json()["data"])
        return {**made, "audit": audit[0]["id"]}
