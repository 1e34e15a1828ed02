"""Signed answers through the whole platform: the option is turned on, calls are made, answers verified, the option ends."""

from __future__ import annotations

import time
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Callable, Iterator

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.signing import answers, v0
from shared.signing.failures import Refused
from shared.signing.keys import PublicKey, SharedSecret, Verifier
from shared.signing.message import Message
from tests.e2e.platform import POSTGRES, SPLIT, Mode, RunningPlatform, params, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(params=params(POSTGRES, SPLIT))
def platform(request: pytest.FixtureRequest, platforms: Callable[[Mode], RunningPlatform]) -> RunningPlatform:
    """What the events travel on changes nothing here."""
    return platforms(request.param)


class Verifying:
    """A client with an API key whose answers are signed; ``fields`` are those of its signing key."""

    def __init__(self, platform: RunningPlatform, **fields: str) -> None:
        self.platform = platform
        with platform.client() as client:
            key = client.post(
                "/v1/api-keys", json={"name": "verifies", "scopes": ["contacts:read", "contacts:write"]}
            ).json()
            self.path = f"/v1/api-keys/{key['id']}"
            made = client.post(f"{self.path}/signing-keys", json=fields).raise_for_status().json()
            self.known: dict[str, Verifier] = {}
            if made["secret"]:
                self.known[made["id"]] = SharedSecret(made["id"], made["secret"].encode())
        self.turn(on=True)
        self.client = httpx.Client(base_url=platform.base_url, headers={"Authorization": f"Bearer {key['key']}"})
        wait_for(lambda: "signature" in self.client.get("/v1/contacts").headers)

    def turn(self, *, on: bool) -> None:
        with self.platform.client() as client:
            client.patch(self.path, json={"sign_answers": on}).raise_for_status()

    def verified(self, reply: httpx.Response) -> str:
        """The id of the key that signed the answer."""
        asked = reply.request
        pairs = [(name.lower(), value) for name, value in asked.headers.raw]
        path, _, query = asked.url.raw_path.partition(b"?")
        request = Message(asked.method, path, query, pairs, scheme="http")
        head = [(name.lower(), value) for name, value in reply.headers.raw]
        return answers.verify(
            request, answers.Answer(reply.status_code, head, reply.content), self.known.get, time.time()
        )


@pytest.fixture
def verifying(platform: RunningPlatform) -> Iterator[Callable[..., Verifying]]:
    """Makes clients; their connections are closed in the end."""
    made: list[Verifying] = []

    def make(**fields: str) -> Verifying:
        made.append(Verifying(platform, **fields))
        return made[-1]

    yield make
    for each in made:
        each.client.close()


def test_every_answer_is_verified(verifying: Callable[..., Verifying]) -> None:
    one = verifying()
    key = {"Idempotency-Key": "once"}
    calls = [
        one.client.get("/v1/contacts?limit=100"),
        one.client.post("/v1/contacts", json={"first_name": "Ada"}, headers=key),
        one.client.post("/v1/contacts", json={"first_name": "Ada"}, headers=key),
        one.client.post("/v1/contacts", json={"first_name": 1}),
        one.client.get("/v1/api-keys"),
        one.client.get("/v1/contacts/nobody"),
    ]
    contact = f"/v1/contacts/{calls[1].json()['id']}"
    calls += [one.client.get(contact, headers={"If-None-Match": calls[1].headers["etag"]}), one.client.delete(contact)]
    assert [each.status_code for each in calls] == [200, 201, 201, 422, 403, 422, 304, 204]
    assert "idempotency-replayed" in calls[2].headers
    for reply in calls:
        assert one.verified(reply) in one.known
    first, second = one.client.get("/v1/contacts?limit=1"), one.client.get("/v1/contacts?limit=2")
    second.request = first.request
    with pytest.raises(Refused):
        one.verified(second)


def test_a_key_without_a_secret_is_answered_by_the_platform(
    platform: RunningPlatform, verifying: Callable[..., Verifying]
) -> None:
    raw = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    one = verifying(algorithm="ed25519", public_key=b64encode(raw).decode())
    jwks = httpx.get(f"{platform.base_url}/.well-known/guardian-answer-key")
    assert jwks.headers["content-type"] == "application/jwk-set+json"
    (jwk,) = jwks.json()["keys"]
    public = Ed25519PublicKey.from_public_bytes(urlsafe_b64decode(jwk["x"] + "="))
    one.known[jwk["kid"]] = PublicKey(jwk["kid"], public)
    assert one.verified(one.client.get("/v1/contacts")) == jwk["kid"]


def test_the_secret_that_signed_by_the_older_scheme_signs_the_answer(verifying: Callable[..., Verifying]) -> None:
    """It names no key, and a client that has not taken up the newer secret yet knows the older one only."""
    one = verifying()
    ((key_id, older),) = one.known.items()
    assert isinstance(older, SharedSecret)
    with one.platform.client() as client:
        newer = client.post(f"{one.path}/signing-keys", json={}).json()
        client.patch(one.path, json={"signature_policy": "v0"}).raise_for_status()
    one.known[newer["id"]] = SharedSecret(newer["id"], newer["secret"].encode())
    assert wait_for(lambda: one.client.get("/v1/contacts").status_code == 401)
    refused = one.client.get("/v1/contacts")
    assert (refused.json()["code"], one.verified(refused)) == ("signature_missing", newer["id"])
    reply = one.client.get("/v1/contacts", headers=v0.sign(older.secret, time.time_ns() // 1_000_000, b""))
    assert (reply.status_code, one.verified(reply)) == (200, key_id)


def test_the_option_ends_at_once(verifying: Callable[..., Verifying]) -> None:
    one = verifying()
    one.turn(on=False)
    assert wait_for(lambda: "signature" not in one.client.get("/v1/contacts").headers)
    reply = one.client.get("/v1/contacts")
    assert not {"signature", "signature-input", "content-digest"} & reply.headers.keys()
