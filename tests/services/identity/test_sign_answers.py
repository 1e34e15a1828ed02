"""The option that answers to an API key's calls are signed."""

import httpx
import pytest

from shared.clock import FixedClock
from tests.services.identity.support import Events, Person, of_type, problem
from tests.services.identity.test_api_keys import make
from tests.services.identity.test_signing_keys import PAIR, ask_for, place, sign_with


async def turn(owner: Person, path: str, value: object) -> httpx.Response:
    """Set the option of the API key whose signing keys are there."""
    return await owner.http.patch(path.removesuffix("/signing-keys"), json={"sign_answers": value})


class TestSignAnswers:
    """PATCH /v1/api-keys/{key_id}, and what becomes of it when the key is rerolled"""

    async def test_200_recorded_as_a_change(self, owner: Person, events: Events) -> None:
        path = await place(owner)
        await sign_with(owner, path)
        answers = [(await turn(owner, path, value)).json() for value in (True, True, False)]
        assert [(each["sign_answers"], each["version"]) for each in answers] == [(True, 2), (True, 2), (False, 3)]
        changes = [each["data"]["changes"] for each in of_type(await events(owner.organization_id), "api_key.updated")]
        assert changes == [
            {"sign_answers": {"before": False, "after": True}},
            {"sign_answers": {"before": True, "after": False}},
        ]

    @pytest.mark.parametrize("policy", ["off", "v1", "v0", "both"])
    async def test_200_whatever_the_policy_is(self, owner: Person, policy: str) -> None:
        path = await place(owner)
        await sign_with(owner, path)
        await turn(owner, path, True)
        answer = (await ask_for(owner, path, policy)).json()
        assert (answer["signature_policy"], answer["sign_answers"]) == (policy, True)

    async def test_200_with_a_public_key_alone(self, owner: Person) -> None:
        path = await place(owner)
        await sign_with(owner, path, **PAIR)
        assert (await turn(owner, path, True)).json()["sign_answers"] is True

    async def test_200_shown_wherever_the_key_is(self, owner: Person) -> None:
        path = await place(owner)
        key = path.removesuffix("/signing-keys")
        await sign_with(owner, path)
        await turn(owner, path, True)
        assert (await owner.http.get(key)).json()["sign_answers"] is True
        listed = (await owner.http.get("/v1/api-keys")).json()["data"]
        assert [each["sign_answers"] for each in listed if key.endswith(each["id"])] == [True]

    async def test_201_a_new_key_has_it_off(self, owner: Person) -> None:
        """It has no signing key yet; so the option is none of those that one is made with."""
        made = await make(owner)
        assert (await owner.http.get(f"/v1/api-keys/{made['id']}")).json()["sign_answers"] is False
        answer = await owner.http.post("/v1/api-keys", json={"name": "n", "scopes": [], "sign_answers": True})
        problem(answer, 422, "validation_failed", "/sign_answers")

    async def test_201_a_successor_keeps_it(self, owner: Person) -> None:
        path = await place(owner)
        await sign_with(owner, path)
        await turn(owner, path, True)
        new = (await owner.http.post(f"{path.removesuffix('/signing-keys')}/reroll", json={})).json()
        assert (new["sign_answers"], new["signature_policy"]) == (True, "off")
        assert (await owner.http.get(f"/v1/api-keys/{new['id']}")).json()["sign_answers"] is True

    async def test_403_neither_on_nor_off_for_a_key_that_may_more(self, owner: Person) -> None:
        path = await place(owner)
        key = path.removesuffix("/signing-keys")
        await sign_with(owner, path)
        weak = await owner.through_key("api_keys:read", "api_keys:write", "contacts:read")
        problem(await weak.patch(key, json={"sign_answers": True}), 403, "scopes_exceed_caller")
        await turn(owner, path, True)
        problem(await weak.patch(key, json={"sign_answers": False}), 403, "scopes_exceed_caller")

    async def test_409_without_a_signing_key_that_works(self, owner: Person, frozen_clock: FixedClock) -> None:
        path = await place(owner)
        found = problem(await turn(owner, path, True), 409, "no_signing_key")
        assert found["detail"].endswith(f"; make one first, with POST {path} and {{}}.")
        assert (await turn(owner, path, False)).json()["version"] == 1
        await sign_with(owner, path, expires_in=60)
        frozen_clock.advance(seconds=60)
        problem(await turn(owner, path, True), 409, "no_signing_key")

    async def test_409_revoking_the_last_signing_key(self, owner: Person, frozen_clock: FixedClock) -> None:
        path = await place(owner)
        expired = await sign_with(owner, path, expires_in=60)
        first, last = await sign_with(owner, path), await sign_with(owner, path, **PAIR)
        await turn(owner, path, True)
        assert (await owner.http.delete(f"{path}/{first['id']}")).status_code == 204
        frozen_clock.advance(seconds=60)
        assert (await owner.http.delete(f"{path}/{expired['id']}")).status_code == 204
        refused = await owner.http.delete(f"{path}/{last['id']}")
        problem(refused, 409, "signing_key_in_use")
        assert "sign_answers" in refused.json()["detail"]
        await turn(owner, path, False)
        assert (await owner.http.delete(f"{path}/{last['id']}")).status_code == 204

    async def test_422_null(self, owner: Person) -> None:
        problem(await turn(owner, await place(owner), None), 422, "validation_failed", "/sign_answers")
