import asyncpg

from shared.clock import FixedClock
from shared.settings import Settings
from shared.vault import Vault
from tests.services.identity.support import PUBLIC_KEY, Events, Person, of_type, problem
from tests.services.identity.test_signing_keys import PAIR, ask_for, material, place, sign_with


class TestSignaturePolicy:
    """PATCH /v1/api-keys/{key_id}, and what becomes of it when the key is rerolled"""

    async def test_200_recorded_as_a_change(self, owner: Person, events: Events) -> None:
        path = await place(owner)
        await sign_with(owner, path)
        answers = [(await ask_for(owner, path, policy)).json() for policy in ("v1", "v1", "both", "off")]
        assert [(each["signature_policy"], each["version"]) for each in answers] == [
            ("v1", 2), ("v1", 2), ("both", 3), ("off", 4),
        ]  # fmt: skip
        changes = [each["data"]["changes"] for each in of_type(await events(owner.organization_id), "api_key.updated")]
        assert changes[0] == {"signature_policy": {"before": "off", "after": "v1"}}

    async def test_200_what_else_changes_leaves_it_alone(self, owner: Person) -> None:
        path = await place(owner)
        await sign_with(owner, path)
        await ask_for(owner, path, "v1")
        answer = await owner.http.patch(path.removesuffix("/signing-keys"), json={"name": "Other"})
        assert answer.json()["signature_policy"] == "v1"

    async def test_403_neither_on_nor_off_for_a_key_that_may_more(self, owner: Person) -> None:
        path = await place(owner)
        await sign_with(owner, path)
        await ask_for(owner, path, "v1")
        weak = await owner.through_key("api_keys:read", "api_keys:write", "contacts:read")
        for policy in ("off", "both"):
            answer = await weak.patch(path.removesuffix("/signing-keys"), json={"signature_policy": policy})
            problem(answer, 403, "scopes_exceed_caller")
        assert (await ask_for(owner, path, "v1")).json()["version"] == 2

    async def test_409_without_a_key_that_it_takes(self, owner: Person, frozen_clock: FixedClock) -> None:
        path = await place(owner)
        await sign_with(owner, path, expires_in=60)
        frozen_clock.advance(seconds=60)
        found = problem(await ask_for(owner, path, "v1"), 409, "no_signing_key")
        assert found["detail"].endswith(f"; make one first, with POST {path} and {{}}.")
        await sign_with(owner, path, **PAIR)
        for policy in ("v0", "both"):
            problem(await ask_for(owner, path, policy), 409, "no_signing_key")
        assert (await ask_for(owner, path, "v1")).status_code == 200

    async def test_422_another_or_none(self, owner: Person) -> None:
        path = (await place(owner)).removesuffix("/signing-keys")
        for policy in ("v2", None):
            answer = await owner.http.patch(path, json={"signature_policy": policy})
            problem(answer, 422, "validation_failed", "/signature_policy")

    async def test_a_successor_asks_for_the_same_signatures(
        self, owner: Person, postgres: str, settings: Settings, events: Events
    ) -> None:
        path = await place(owner)
        secret = await sign_with(owner, path, expires_at="2100-01-01T00:00:00Z")
        pair, revoked = await sign_with(owner, path, **PAIR), await sign_with(owner, path)
        await owner.http.delete(f"{path}/{revoked['id']}")
        await ask_for(owner, path, "both")
        new = (await owner.http.post(f"{path.removesuffix('/signing-keys')}/reroll", json={})).json()
        assert new["signature_policy"] == "both"
        copies = (await owner.http.get(f"/v1/api-keys/{new['id']}/signing-keys")).json()["data"]
        assert [(each["rotated_from"], each["public_key"], each["expires_at"]) for each in copies] == [
            (secret["id"], None, "2100-01-01T00:00:00Z"), (pair["id"], PUBLIC_KEY, None),
        ]  # fmt: skip
        vault = Vault(settings.derive_key("vault:signing-keys"))
        context = f"signing-key:{owner.organization_id}:{copies[0]['id']}"
        assert vault.open(await material(postgres, copies[0]["id"]), context) == secret["secret"].encode()
        assert len(of_type(await events(owner.organization_id), "signing_key.created")) == 5
        kept = (await owner.http.get(path)).json()["data"]
        assert [each["revoked_at"] is None for each in kept] == [True, True, False]

    async def test_409_rerolling_when_a_secret_cannot_be_read(self, owner: Person, postgres: str) -> None:
        path = await place(owner)
        made = await sign_with(owner, path)
        sealed = Vault(bytes(32)).seal(b"under another root secret", made["id"])
        connection = await asyncpg.connect(postgres)
        await connection.execute(
            "UPDATE identity.signing_keys SET material = $1 WHERE id = $2::uuid", sealed, made["id"]
        )
        await connection.close()
        key = path.removesuffix("/signing-keys")
        problem(await owner.http.post(f"{key}/reroll", json={}), 409, "signing_key_unreadable")
        assert (await owner.http.get(key)).json()["replaced_by"] is None
