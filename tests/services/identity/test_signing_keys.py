from base64 import b64decode, b64encode
from dataclasses import replace
from typing import Any

import asyncpg
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.identity.domain import ROLES
from shared.clock import FixedClock
from shared.settings import Settings
from shared.vault import Vault
from tests.services.identity.support import NOWHERE, PUBLIC_KEY, Events, People, Person, of_type, problem, same_problem
from tests.services.identity.test_api_keys import make

PAIR = {"algorithm": "ed25519", "public_key": PUBLIC_KEY}


def pem(key: Any) -> str:
    text: str = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return text


async def place(owner: Person, **fields: object) -> str:
    """Where the signing keys of a new API key are."""
    return f"/v1/api-keys/{(await make(owner, **fields))['id']}/signing-keys"


async def sign_with(owner: Person, path: str, **fields: object) -> dict[str, Any]:
    """A new signing key there."""
    answer = await owner.http.post(path, json=fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def ask_for(owner: Person, path: str, policy: str) -> httpx.Response:
    """Set the policy of the API key whose signing keys are there."""
    return await owner.http.patch(path.removesuffix("/signing-keys"), json={"signature_policy": policy})


async def material(postgres: str, signing_key_id: str) -> bytes:
    connection = await asyncpg.connect(postgres)
    stored: bytes = await connection.fetchval(
        "SELECT material FROM identity.signing_keys WHERE id = $1::uuid", signing_key_id
    )
    await connection.close()
    return stored


class TestCreateSigningKey:
    """POST /v1/api-keys/{key_id}/signing-keys"""

    async def test_201_a_secret_that_is_shown_once_and_stored_sealed(
        self, owner: Person, events: Events, postgres: str, settings: Settings
    ) -> None:
        path = await place(owner)
        answer = await owner.http.post(path, json={})
        made = answer.json()
        assert (answer.status_code, answer.headers["location"]) == (201, f"{path}/{made['id']}")
        assert (made["algorithm"], made["public_key"], made["expires_at"]) == ("hmac-sha256", None, None)
        assert made["created_by"] == owner.user["id"]
        secret = made.pop("secret")
        assert "material" not in made
        assert (await owner.http.get(f"{path}/{made['id']}")).json() == made
        stored = await material(postgres, made["id"])
        assert secret[5:].encode() not in stored
        vault = Vault(settings.derive_key("vault:signing-keys"))
        assert vault.open(stored, f"signing-key:{owner.organization_id}:{made['id']}") == secret.encode()
        published = await events(owner.organization_id)
        (event,) = of_type(published, "signing_key.created")
        assert (event["subject"], event["data"]["api_key_id"]) == (made["id"], made["api_key_id"])
        assert secret[5:] not in str(published)

    async def test_201_a_public_key(self, owner: Person, postgres: str) -> None:
        made = await sign_with(owner, await place(owner), **PAIR)
        assert (made["algorithm"], made["public_key"], made["secret"]) == ("ed25519", PUBLIC_KEY, None)
        assert await material(postgres, made["id"]) == b64decode(PUBLIC_KEY)

    async def test_201_a_public_key_in_pem(self, owner: Person) -> None:
        key = Ed25519PublicKey.from_public_bytes(b64decode(PUBLIC_KEY))
        for text in (pem(key), f"\n{pem(key)}\n", pem(key).replace("\n", "\r\n")):
            made = await sign_with(owner, await place(owner), algorithm="ed25519", public_key=text)
            assert made["public_key"] == PUBLIC_KEY

    async def test_201_for_a_while(self, owner: Person, frozen_clock: FixedClock) -> None:
        path = await place(owner)
        assert (await sign_with(owner, path, expires_in=60))["expires_at"] == "2026-01-15T12:01:00Z"
        given = "2026-02-01T00:00:00Z"
        assert (await sign_with(owner, path, expires_at=given))["expires_at"] == given

    async def test_201_the_same_request_again_shows_the_same_secret(self, owner: Person) -> None:
        path = await place(owner)
        answers = [await owner.http.post(path, json={}, headers={"Idempotency-Key": "k"}) for _ in range(2)]
        assert answers[0].json() == answers[1].json()
        assert len((await owner.http.get(path)).json()["data"]) == 1

    async def test_401_and_403(self, owner: Person, anyone: httpx.AsyncClient, join: People) -> None:
        path = await place(owner)
        problem(await anyone.post(path, json={}), 401, "unauthenticated")
        problem(await (await join(owner)).http.post(path, json={}), 403, "missing_scope")
        problem(await (await owner.limited_to("api_keys:read")).post(path, json={}), 403, "missing_scope")

    async def test_403_for_a_key_that_may_more_than_the_caller(self, owner: Person) -> None:
        path = await place(owner)
        weak = await owner.through_key("api_keys:write", "contacts:read")
        problem(await weak.post(path, json={}), 403, "scopes_exceed_caller")
        strong = await owner.through_key("api_keys:write", "contacts:read", "contacts:write")
        assert (await strong.post(path, json={})).json()["created_by"] == owner.user["id"]

    async def test_403_for_a_caller_nobody_answers_for(self, owner: Person) -> None:
        service = replace(owner.principal, actor_type="service", actor_id="x", scopes=ROLES["owner"])
        unowned = await owner.connect("identity", service)
        problem(await unowned.post(await place(owner), json={}), 403, "user_required")

    async def test_404_of_another_organisation(self, owner: Person, stranger: Person) -> None:
        path = await place(stranger)
        foreign = await owner.http.post(path, json={})
        problem(foreign, 404, "not_found")
        same_problem(foreign, await owner.http.post(f"/v1/api-keys/{NOWHERE}/signing-keys", json={}))
        assert (await stranger.http.get(path)).json()["data"] == []

    async def test_409_a_revoked_api_key(self, owner: Person) -> None:
        path = await place(owner)
        await owner.http.delete(path.removesuffix("/signing-keys"))
        problem(await owner.http.post(path, json={}), 409, "api_key_revoked")

    async def test_409_more_than_five_that_work(self, owner: Person, frozen_clock: FixedClock) -> None:
        path = await place(owner)
        await sign_with(owner, path, expires_in=60)
        made = [await sign_with(owner, path) for _ in range(4)]
        problem(await owner.http.post(path, json={}), 409, "too_many_signing_keys")
        await owner.http.delete(f"{path}/{made[0]['id']}")
        await sign_with(owner, path)
        problem(await owner.http.post(path, json={}), 409, "too_many_signing_keys")
        frozen_clock.advance(seconds=60)
        await sign_with(owner, path)

    @pytest.mark.parametrize(
        "text",
        [
            "", "AAAA", "not base64!", b64encode(bytes(32)).decode(), b64encode(bytes(33)).decode(),
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", pem(X25519PrivateKey.generate().public_key()),
        ],
    )  # fmt: skip
    async def test_422_what_is_no_public_key(self, owner: Person, text: str) -> None:
        answer = await owner.http.post(await place(owner), json={"algorithm": "ed25519", "public_key": text})
        problem(answer, 422, "validation_failed", "/public_key")

    async def test_422_a_public_key_too_few_or_too_many(self, owner: Person) -> None:
        path = await place(owner)
        answer = await owner.http.post(path, json={"algorithm": "ed25519"})
        problem(answer, 422, "public_key_required", "/public_key")
        answer = await owner.http.post(path, json={"public_key": PUBLIC_KEY})
        problem(answer, 422, "public_key_not_used", "/public_key")

    async def test_422_an_expiry_in_the_past_or_twice_or_another_algorithm(self, owner: Person) -> None:
        path = await place(owner)
        answer = await owner.http.post(path, json={"expires_at": "2001-01-01T00:00:00Z"})
        problem(answer, 422, "expires_in_the_past", "/expires_at")
        twice = {"expires_at": "2100-01-01T00:00:00Z", "expires_in": 5}
        problem(await owner.http.post(path, json=twice), 422, "validation_failed")
        problem(await owner.http.post(path, json={"algorithm": "none"}), 422, "validation_failed", "/algorithm")


class TestListSigningKeys:
    """GET /v1/api-keys/{key_id}/signing-keys"""

    async def test_200_page_by_page_and_of_one_api_key(self, owner: Person) -> None:
        path = await place(owner)
        made = [await sign_with(owner, path), await sign_with(owner, path, **PAIR)]
        await sign_with(owner, await place(owner))
        await owner.http.delete(f"{path}/{made[0]['id']}")
        first = (await owner.http.get(f"{path}?limit=1")).json()
        second = (await owner.http.get(f"{path}?cursor={first['next_cursor']}")).json()
        found = first["data"] + second["data"]
        assert [each["id"] for each in found] == [each["id"] for each in made]
        assert found[0]["revoked_at"]
        assert found[1]["public_key"] == PUBLIC_KEY
        assert not {"secret", "material"} & (found[0].keys() | found[1].keys())

    async def test_401_403_404(self, owner: Person, stranger: Person, anyone: httpx.AsyncClient) -> None:
        path = await place(stranger)
        problem(await anyone.get(path), 401, "unauthenticated")
        problem(await (await owner.limited_to("api_keys:write")).get(path), 403, "missing_scope")
        foreign = await owner.http.get(path)
        problem(foreign, 404, "not_found")
        same_problem(foreign, await owner.http.get(f"/v1/api-keys/{NOWHERE}/signing-keys"))


class TestGetSigningKey:
    """GET /v1/api-keys/{key_id}/signing-keys/{signing_key_id}"""

    async def test_304_unchanged(self, owner: Person) -> None:
        path = await place(owner)
        one = f"{path}/{(await sign_with(owner, path))['id']}"
        assert (await owner.http.get(one)).headers["etag"] == '"1"'
        assert (await owner.http.get(one, headers={"If-None-Match": '"1"'})).status_code == 304

    async def test_404_of_another_api_key_or_organisation(self, owner: Person, stranger: Person) -> None:
        path, other, foreign = await place(owner), await place(owner), await place(stranger)
        theirs = await sign_with(stranger, foreign)
        unknown = await owner.http.get(f"{path}/{NOWHERE}")
        problem(unknown, 404, "not_found")
        same_problem(unknown, await owner.http.get(f"{path}/{theirs['id']}"))
        same_problem(unknown, await owner.http.get(f"{path}/{(await sign_with(owner, other))['id']}"))
        problem(await owner.http.get(f"{foreign}/{theirs['id']}"), 404, "not_found")


class TestRotateSigningKey:
    """POST /v1/api-keys/{key_id}/signing-keys/{signing_key_id}/rotate"""

    async def test_201_both_work_for_the_overlap(self, owner: Person, frozen_clock: FixedClock, events: Events) -> None:
        path = await place(owner)
        old = await sign_with(owner, path)
        answer = await owner.http.post(f"{path}/{old['id']}/rotate", json={"overlap_seconds": 3600})
        new = answer.json()
        assert (answer.status_code, answer.headers["location"]) == (201, f"{path}/{new['id']}")
        assert new["secret"] != old["secret"]
        assert (new["rotated_from"], new["expires_at"]) == (old["id"], None)
        kept = (await owner.http.get(f"{path}/{old['id']}")).json()
        assert (kept["expires_at"], kept["revoked_at"], kept["version"]) == ("2026-01-15T13:00:00Z", None, 2)
        (event,) = of_type(await events(owner.organization_id), "signing_key.rotated")
        assert (event["subject"], event["data"]["replaced_by"]) == (old["id"], new["id"])

    async def test_201_the_old_one_lives_no_longer_than_it_would_have(
        self, owner: Person, frozen_clock: FixedClock
    ) -> None:
        path = await place(owner)
        old = await sign_with(owner, path, expires_in=60)
        await owner.http.post(f"{path}/{old['id']}/rotate", json={})
        assert (await owner.http.get(f"{path}/{old['id']}")).json()["expires_at"] == "2026-01-15T12:01:00Z"

    async def test_201_without_an_overlap_the_old_one_is_revoked(self, owner: Person, events: Events) -> None:
        """Also one of five, and the only one that a policy needs."""
        path = await place(owner)
        made = [await sign_with(owner, path) for _ in range(5)]
        await ask_for(owner, path, "v0")
        old, *_ = made
        problem(await owner.http.post(f"{path}/{old['id']}/rotate", json={}), 409, "too_many_signing_keys")
        answer = await owner.http.post(f"{path}/{old['id']}/rotate", json={"overlap_seconds": 0})
        assert answer.status_code == 201
        assert (await owner.http.get(f"{path}/{old['id']}")).json()["revoked_at"]
        published = await events(owner.organization_id)
        assert [each["type"] for each in published if each["subject"] == old["id"]] == [
            "signing_key.created", "signing_key.rotated", "signing_key.revoked",
        ]  # fmt: skip
        assert published[-1]["data"]["reason"] == "rotated"

    async def test_201_a_public_key_follows_a_public_key(self, owner: Person) -> None:
        path = await place(owner)
        old = await sign_with(owner, path, **PAIR)
        rotate = f"{path}/{old['id']}/rotate"
        problem(await owner.http.post(rotate, json={}), 422, "public_key_required", "/public_key")
        new_key = pem(Ed25519PrivateKey.generate().public_key())
        body = {"public_key": new_key, "expires_at": "2100-01-01T00:00:00Z"}
        new = (await owner.http.post(rotate, json=body)).json()
        assert (new["algorithm"], new["secret"], new["expires_at"]) == ("ed25519", None, body["expires_at"])
        assert new["public_key"] not in {None, PUBLIC_KEY}
        secret = await sign_with(owner, path)
        answer = await owner.http.post(f"{path}/{secret['id']}/rotate", json={"public_key": new_key})
        problem(answer, 422, "public_key_not_used", "/public_key")

    async def test_403_for_a_key_that_may_more_than_the_caller(self, owner: Person) -> None:
        path = await place(owner)
        rotate = f"{path}/{(await sign_with(owner, path))['id']}/rotate"
        weak = await owner.through_key("api_keys:write", "contacts:read")
        problem(await weak.post(rotate, json={}), 403, "scopes_exceed_caller")
        problem(await (await owner.limited_to("api_keys:read")).post(rotate, json={}), 403, "missing_scope")

    async def test_404_of_another_organisation(self, owner: Person, stranger: Person) -> None:
        mine, foreign = await place(owner), await place(stranger)
        theirs = await sign_with(stranger, foreign)
        problem(await owner.http.post(f"{foreign}/{theirs['id']}/rotate", json={}), 404, "not_found")
        problem(await owner.http.post(f"{mine}/{theirs['id']}/rotate", json={}), 404, "not_found")
        assert len((await stranger.http.get(foreign)).json()["data"]) == 1

    async def test_409_one_that_has_a_successor_until_that_is_revoked(self, owner: Person) -> None:
        path = await place(owner)
        rotate = f"{path}/{(await sign_with(owner, path))['id']}/rotate"
        new = (await owner.http.post(rotate, json={})).json()
        problem(await owner.http.post(rotate, json={}), 409, "already_rotated")
        await owner.http.delete(f"{path}/{new['id']}")
        assert (await owner.http.post(rotate, json={})).status_code == 201

    async def test_409_one_that_has_ended(self, owner: Person, frozen_clock: FixedClock) -> None:
        path = await place(owner)
        revoked, expired = await sign_with(owner, path), await sign_with(owner, path, expires_in=60)
        await owner.http.delete(f"{path}/{revoked['id']}")
        frozen_clock.advance(seconds=60)
        for old in (revoked, expired):
            problem(await owner.http.post(f"{path}/{old['id']}/rotate", json={}), 409, "signing_key_ended")

    async def test_412_and_422(self, owner: Person) -> None:
        path = await place(owner)
        rotate = f"{path}/{(await sign_with(owner, path))['id']}/rotate"
        answer = await owner.http.post(rotate, json={}, headers={"If-Match": '"3"'})
        problem(answer, 412, "precondition_failed")
        for seconds in (-1, 2_592_001):
            answer = await owner.http.post(rotate, json={"overlap_seconds": seconds})
            problem(answer, 422, "validation_failed", "/overlap_seconds")
        past = {"expires_at": "2001-01-01T00:00:00Z"}
        problem(await owner.http.post(rotate, json=past), 422, "expires_in_the_past", "/expires_at")


class TestRevokeSigningKey:
    """DELETE /v1/api-keys/{key_id}/signing-keys/{signing_key_id}"""

    async def test_204_for_good(self, owner: Person, events: Events) -> None:
        path = await place(owner)
        one = f"{path}/{(await sign_with(owner, path))['id']}"
        for _ in range(2):
            assert (await owner.http.delete(one)).status_code == 204
        assert (await owner.http.get(one)).json()["revoked_at"]
        (event,) = of_type(await events(owner.organization_id), "signing_key.revoked")
        assert event["data"]["reason"] == "revoked"

    @pytest.mark.parametrize("policy", ["v0", "both", "v1"])
    async def test_409_the_last_one_that_the_policy_takes(self, owner: Person, policy: str) -> None:
        path = await place(owner)
        needed, pair = await sign_with(owner, path), await sign_with(owner, path, **PAIR)
        await ask_for(owner, path, policy)
        first, last = (pair, needed) if policy != "v1" else (needed, pair)
        assert (await owner.http.delete(f"{path}/{first['id']}")).status_code == 204
        problem(await owner.http.delete(f"{path}/{last['id']}"), 409, "signing_key_in_use")
        assert (await owner.http.get(f"{path}/{last['id']}")).json()["revoked_at"] is None
        await ask_for(owner, path, "off")
        assert (await owner.http.delete(f"{path}/{last['id']}")).status_code == 204

    async def test_204_one_that_the_policy_needs_no_more(self, owner: Person, frozen_clock: FixedClock) -> None:
        path = await place(owner)
        expired, last = await sign_with(owner, path, expires_in=60), await sign_with(owner, path)
        await ask_for(owner, path, "v1")
        frozen_clock.advance(seconds=60)
        assert (await owner.http.delete(f"{path}/{expired['id']}")).status_code == 204
        problem(await owner.http.delete(f"{path}/{last['id']}"), 409, "signing_key_in_use")
        await owner.http.delete(path.removesuffix("/signing-keys"))
        assert (await owner.http.delete(f"{path}/{last['id']}")).status_code == 204

    async def test_204_one_that_never_met_the_policy(self, owner: Person, frozen_clock: FixedClock) -> None:
        path = await place(owner)
        await sign_with(owner, path, expires_in=60)
        pair = await sign_with(owner, path, **PAIR)
        await ask_for(owner, path, "v0")
        frozen_clock.advance(seconds=60)
        assert (await owner.http.delete(f"{path}/{pair['id']}")).status_code == 204

    async def test_404_of_another_organisation(self, owner: Person, stranger: Person) -> None:
        mine, foreign = await place(owner), await place(stranger)
        theirs = await sign_with(stranger, foreign)
        for path in (mine, foreign):
            problem(await owner.http.delete(f"{path}/{theirs['id']}"), 404, "not_found")
        assert (await stranger.http.get(f"{foreign}/{theirs['id']}")).json()["revoked_at"] is None

    async def test_403_and_412(self, owner: Person) -> None:
        path = await place(owner)
        one = f"{path}/{(await sign_with(owner, path))['id']}"
        problem(await (await owner.limited_to("api_keys:read")).delete(one), 403, "missing_scope")
        problem(await owner.http.delete(one, headers={"If-Match": '"3"'}), 412, "precondition_failed")
