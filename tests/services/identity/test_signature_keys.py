from shared.clock import FixedClock
from tests.services.identity.handmade import NOW, by_hmac
from tests.services.identity.support import Person
from tests.services.identity.test_signatures import signs
from tests.services.identity.test_signing_keys import sign_with


class TestKeysThatASignatureMayBeOf:
    """POST /v1/signatures/verify: which key it was, of those that are stored"""

    async def test_200_another_test_key(self, owner: Person, frozen_clock: FixedClock) -> None:
        key, other = await signs(owner), await signs(owner)
        found = await key.told(other.request())
        assert found["code"] == "signature_key"
        assert f"a signing key of another API key, {other.api_key['id']}" in found["hints"][0]
        assert "give it here as api_key_id" in found["hints"][0]
        assert found["hints"][1].startswith("The signature itself is right")
        assert other.signing_key["secret"] not in str(found)

    async def test_200_a_live_key_is_named_and_nothing_more(self, owner: Person, frozen_clock: FixedClock) -> None:
        key, live = await signs(owner), await signs(owner, mode="live")
        right, wrong = [await key.told(live.request(**fields)) for fields in ({}, {"sign": by_hmac("wrong")})]
        assert right["hints"] == wrong["hints"]
        assert f"another API key, {live.api_key['id']}. That is a live key" in right["hints"][0]

    async def test_200_nothing_of_another_organisation_is_told(
        self, owner: Person, stranger: Person, frozen_clock: FixedClock
    ) -> None:
        key, foreign = await signs(owner), await signs(stranger)
        found = await key.told(foreign.request())
        (named,) = [each for each in found["parameters"] if each["name"] == "keyid"]
        assert named["problem"] == "No signing key of this API key has this id."
        assert foreign.api_key["id"] not in str(found)
        assert "No usual mistake" in found["hints"][1]

    async def test_200_the_copy_of_a_rerolled_api_key(self, owner: Person, frozen_clock: FixedClock) -> None:
        key = await signs(owner)
        new = (await owner.http.post(f"/v1/api-keys/{key.api_key['id']}/reroll", json={})).json()
        (copy,) = (await owner.http.get(f"/v1/api-keys/{new['id']}/signing-keys")).json()["data"]
        found = await key.told(api_key_id=new["id"])
        assert found["hints"][0].endswith(f"has a copy of it with the same secret: name {copy['id']}.")
        assert found["hints"][1].startswith("The signature itself is right")

    async def test_200_the_secret_of_before_a_rotation(self, owner: Person, frozen_clock: FixedClock) -> None:
        key = await signs(owner)
        frozen_clock.advance(seconds=10)
        answer = await owner.http.post(f"{key.path}/{key.signing_key['id']}/rotate", json={"overlap_seconds": 0})
        new = answer.json()["id"]
        found = await key.told(key.request(parameters={"keyid": f'"{new}"'}), at=NOW + 15)
        (hint,) = found["hints"]
        assert hint == (
            f"Your signature matches if it was made with the signing key {key.signing_key['id']}, which was replaced, "
            f"and ended 5 s before the request; sign with {new}, which keyid names."
        )

    async def test_200_the_secret_of_a_revoked_key(self, owner: Person, frozen_clock: FixedClock) -> None:
        key = await signs(owner, "v0")
        await sign_with(owner, key.path)
        assert (await owner.http.delete(f"{key.path}/{key.signing_key['id']}")).status_code == 204
        time = f"{NOW * 1000}"
        signature = by_hmac(key.signing_key["secret"])(f"{time}:".encode()).hex()
        headers = {"X-Timestamp": time, "X-Signature": signature}
        found = await key.told(headers=headers, content=None, at=NOW + 7)
        assert f"made with the signing key {key.signing_key['id']}, which was revoked 7 s before" in found["hints"][0]
