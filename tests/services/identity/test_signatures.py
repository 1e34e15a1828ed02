import random
import string
from base64 import b64encode
from typing import Any

import asyncpg
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.clock import FixedClock
from shared.settings import Settings
from tests.services.identity.handmade import CONTENT, NOW, Handmade, by_hmac
from tests.services.identity.support import NOWHERE, People, Person, problem, same_problem
from tests.services.identity.test_api_keys import make
from tests.services.identity.test_signing_keys import ask_for, sign_with

VERIFY = "/v1/signatures/verify"


class Signs:
    """A test key that must sign, and its signing key."""

    def __init__(self, owner: Person, api_key: dict[str, Any], signing_key: dict[str, Any]) -> None:
        self.owner, self.api_key, self.signing_key = owner, api_key, signing_key
        self.path = f"/v1/api-keys/{api_key['id']}/signing-keys"

    def request(self, **fields: Any) -> Handmade:
        """A request that is signed with it."""
        secret = self.signing_key["secret"]
        parameters = {"keyid": f'"{self.signing_key["id"]}"'} | fields.pop("parameters", {})
        made = Handmade(parameters=parameters, **fields)
        return made if secret is None or "sign" in fields else made.but(sign=by_hmac(secret))

    def body(self, request: Handmade | None = None, **more: Any) -> dict[str, Any]:
        return (request or self.request()).body(api_key_id=self.api_key["id"]) | more

    async def told(self, request: Handmade | None = None, **more: Any) -> dict[str, Any]:
        """What is said of it; never the secret."""
        answer = await self.owner.http.post(VERIFY, json=self.body(request, **more))
        assert answer.status_code == 200, answer.text
        assert (self.signing_key["secret"] or "gdns_") not in answer.text
        found: dict[str, Any] = answer.json()
        return found


async def signs(owner: Person, policy: str = "v1", mode: str = "test", **fields: object) -> Signs:
    api_key = await make(owner, mode=mode)
    made = Signs(owner, api_key, {})
    made.signing_key = await sign_with(owner, made.path, **fields)
    assert (await ask_for(owner, made.path, policy)).status_code == 200
    return made


class TestVerifySignature:
    """POST /v1/signatures/verify"""

    async def test_200_a_valid_one_as_often_as_one_likes(self, owner: Person, frozen_clock: FixedClock) -> None:
        key = await signs(owner)
        found = await key.told()
        assert (found["valid"], found["code"], found["scheme"], found["hints"]) == (True, None, "v1", [])
        assert await key.told() == found
        assert found["content_digest"]["matches"] is True
        assert found["signature_base"].startswith('"@method": POST\n"@authority": api.example.com\n"@path": /v1/')
        assert {each["problem"] for each in found["components"] + found["parameters"]} == {None}

    async def test_200_what_is_wrong_and_what_explains_it(self, owner: Person, frozen_clock: FixedClock) -> None:
        key = await signs(owner)
        found = await key.told(key.request(signed={"@path": "/v1/contacts/caf\xc3\xa9"}))
        assert (found["valid"], found["code"]) == (False, "signature_mismatch")
        assert found["hints"] == ["Your signature matches if @path is percent-decoded; sign the raw path."]
        (path,) = [each for each in found["components"] if each["problem"]]
        assert path == {
            "name": "@path", "value": "/v1/contacts/caf%C3%A9", "covered": True, "required": True,
            "problem": "What was signed is '/v1/contacts/café': @path is percent-decoded; sign the raw path.",
        }  # fmt: skip

    async def test_200_an_old_request(self, owner: Person, frozen_clock: FixedClock) -> None:
        key = await signs(owner)
        frozen_clock.advance(days=30)
        assert (await key.told())["valid"]
        found = await key.told(at=None)
        assert found["code"] == "signature_time"
        (created,) = [each for each in found["parameters"] if each["name"] == "created"]
        assert created["problem"] == (
            "It was 2592000 s ago; 300 s are allowed. Sign each request anew, just before it is sent; if you do, check "
            "your clock."
        )

    async def test_200_a_public_key(self, owner: Person, frozen_clock: FixedClock) -> None:
        private = Ed25519PrivateKey.generate()
        public = b64encode(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
        key = await signs(owner, algorithm="ed25519", public_key=public)
        request = key.request(parameters={"alg": '"ed25519"'}, sign=private.sign)
        assert (await key.told(request))["valid"]
        found = await key.told(request.but(signed={"@query": "limit=5&sort=a%20b"}))
        assert "@query lacks its '?'" in found["hints"][0]

    async def test_200_the_older_scheme(self, owner: Person, frozen_clock: FixedClock) -> None:
        key = await signs(owner, "v0")
        sign = by_hmac(key.signing_key["secret"])
        right, wrong = [
            await key.told(headers={"X-Timestamp": f"{NOW * 1000}", "X-Signature": sign(begin + CONTENT).hex()})
            for begin in (f"{NOW * 1000}:".encode(), f"{NOW}:".encode())
        ]
        assert (right["scheme"], right["valid"], wrong["scheme"], wrong["valid"]) == ("v0", True, "v0", False)
        assert "the time in the text is in seconds" in wrong["hints"][0]

    async def test_200_content_that_is_no_text(self, owner: Person, frozen_clock: FixedClock) -> None:
        key, content = await signs(owner), bytes(range(256))
        body = key.body(key.request(content=content).but(content=b""))
        request = key.request(content=content)
        body |= {"headers": request.fields(), "content_base64": b64encode(content).decode()}
        assert (await owner.http.post(VERIFY, json=body)).json()["valid"]

    async def test_200_keys_that_have_ended_by_then(self, owner: Person, frozen_clock: FixedClock) -> None:
        key = await signs(owner)
        await sign_with(owner, key.path)
        frozen_clock.advance(seconds=60)
        assert (await owner.http.delete(f"{key.path}/{key.signing_key['id']}")).status_code == 204
        assert (await key.told())["valid"]  # it was good then
        found = await key.told(at=NOW + 100)
        assert found["code"] == "signature_key"
        (named,) = [each for each in found["parameters"] if each["name"] == "keyid"]
        assert named["problem"] == "This signing key was revoked 40 s before the request; sign with another one."
        assert found["hints"][0] == f"keyid: {named['problem']}"
        assert found["hints"][1].startswith("The signature itself is right")

    async def test_200_an_api_key_that_is_worth_nothing(self, owner: Person, frozen_clock: FixedClock) -> None:
        key = await signs(owner)
        change = {"expires_at": "2026-01-15T12:01:00Z"}
        assert (await owner.http.patch(f"/v1/api-keys/{key.api_key['id']}", json=change)).status_code == 200
        frozen_clock.advance(seconds=120)
        ended = await key.told(at=NOW + 60)
        assert (ended["code"], ended["hints"][0]) == ("api_key_expired", "The API key has expired.")
        await owner.http.delete(f"/v1/api-keys/{key.api_key['id']}")
        assert (await key.told(at=None))["code"] == "api_key_revoked"
        assert (await key.told())["valid"]

    async def test_200_a_secret_that_cannot_be_read(
        self, owner: Person, postgres: str, frozen_clock: FixedClock, settings: Settings
    ) -> None:
        key = await signs(owner)
        connection = await asyncpg.connect(postgres)
        await connection.execute(
            "UPDATE identity.signing_keys SET material = $2 WHERE id = $1::uuid",
            key.signing_key["id"],
            b"\x01" + bytes(99),
        )
        await connection.close()
        found = await key.told()
        assert found["code"] == "signature_key"
        assert f"The secret of the signing key {key.signing_key['id']} cannot be read" in found["hints"][-1]

    async def test_200_through_an_api_key_and_retried(self, owner: Person, frozen_clock: FixedClock) -> None:
        key = await signs(owner)
        reader = await owner.through_key("api_keys:read")
        headers = {"Idempotency-Key": "once"}
        answers = [await reader.post(VERIFY, json=key.body(), headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].json() == answers[1].json()

    async def test_401_and_403(self, owner: Person, anyone: httpx.AsyncClient, join: People) -> None:
        body = (await signs(owner)).body()
        problem(await anyone.post(VERIFY, json=body), 401, "unauthenticated")
        problem(await (await join(owner)).http.post(VERIFY, json=body), 403, "missing_scope")
        problem(await (await owner.limited_to("api_keys:write")).post(VERIFY, json=body), 403, "missing_scope")

    async def test_403_a_live_key(self, owner: Person) -> None:
        live = await signs(owner, mode="live")
        refused = problem(await owner.http.post(VERIFY, json=live.body()), 403, "live_key")
        assert "Make a test key" in refused["detail"]

    async def test_404_of_another_organisation(self, owner: Person, stranger: Person) -> None:
        for mode in ("test", "live"):
            foreign = await signs(stranger, mode=mode)
            answer = await owner.http.post(VERIFY, json=foreign.body())
            problem(answer, 404, "not_found")
            same_problem(answer, await owner.http.post(VERIFY, json=foreign.body(api_key_id=NOWHERE)))

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"method": "PO ST"}, "/method"), ({"method": ""}, "/method"), ({"method": 5}, "/method"),
            ({"url": "v1/contacts"}, "/url"), ({"url": "ftp://a/"}, "/url"), ({"url": "https://"}, "/url"),
            ({"url": "https://a b/"}, "/url"), ({"url": "https://a/é"}, "/url"), ({"url": "https://a/#x"}, "/url"),
            ({"url": "https://" + "a" * 9000}, "/url"), ({"url": "https://[::1/"}, "/url"),
            ({"headers": {"a b": "c"}}, "/headers/a b"), ({"headers": {"a": "b\nc"}}, "/headers/a"),
            ({"headers": {"a": "b" * 20_000}}, "/headers/a"), ({"headers": {"a": ["b"]}}, "/headers/a"),
            ({"headers": {f"h{n}": "x" * 4000 for n in range(5)}}, "/headers"), ({"headers": []}, "/headers"),
            ({"headers": {f"h{n}": "x" for n in range(101)}}, "/headers"), ({"headers": {"host": "a/b"}}, "/headers"),
            ({"headers": {"host": "a", "Host": "b"}}, "/headers"),
            ({"content": "x" * 262_145}, "/content"), ({"content": "é" * 140_000}, "/content"),
            ({"content": None, "content_base64": "?"}, "/content_base64"),
            ({"content": None, "content_base64": "A" * 349_528}, "/content_base64"),
            ({"content": "x", "content_base64": "eA=="}, "/"), ({"url": "/v1/contacts"}, "/"),
            ({"at": -1}, "/at"), ({"at": NOW * 1000_000}, "/at"), ({"at": "today"}, "/at"),
            ({"api_key_id": "x"}, "/api_key_id"), ({"api_key_id": "gdn_test_x"}, "/api_key_id"), ({"more": 1}, "/more"),
        ],
    )  # fmt: skip
    async def test_422_what_is_no_request(self, owner: Person, change: dict[str, Any], field: str) -> None:
        answer = await owner.http.post(VERIFY, json=Handmade().body(api_key_id=NOWHERE) | change)
        problem(answer, 422, "validation_failed", field)

    async def test_400_and_415(self, owner: Person) -> None:
        headers = {"Content-Type": "application/json"}
        problem(await owner.http.post(VERIFY, content=b'{"a', headers=headers), 400, "malformed_json")
        problem(await owner.http.post(VERIFY, content=b'{"url":"\\ud800"}', headers=headers), 400, "malformed_json")
        problem(await owner.http.post(VERIFY, content=b"{}"), 415, "unsupported_media_type")

    async def test_200_a_key_whose_overlap_has_ended_names_its_successor(
        self, owner: Person, frozen_clock: FixedClock
    ) -> None:
        key = await signs(owner)
        answer = await owner.http.post(f"{key.path}/{key.signing_key['id']}/rotate", json={"overlap_seconds": 60})
        assert (await key.told(at=NOW + 59))["valid"]
        found = await key.told(at=NOW + 100)
        says = f"This signing key was replaced, and ended 40 s before the request; sign with its successor, {answer.json()['id']}."
        assert (found["code"], found["hints"][0]) == ("signature_key", f"keyid: {says}")
        assert "After a rotation sign with the successor" in found["detail"]

    async def test_200_an_api_key_whose_overlap_has_ended(self, owner: Person, frozen_clock: FixedClock) -> None:
        key = await signs(owner)
        rerolled = await owner.http.post(f"/v1/api-keys/{key.api_key['id']}/reroll", json={"overlap_seconds": 60})
        found = await key.told(at=NOW + 100)
        assert found["code"] == "api_key_expired"
        assert found["hints"][0] == f"The API key's overlap has ended; use its successor, {rerolled.json()['id']}."

    async def test_200_a_method_in_lower_case(self, owner: Person, frozen_clock: FixedClock) -> None:
        key = await signs(owner)
        found = await key.told(method="post")
        assert (found["valid"], found["code"]) == (False, "bad_request")
        assert found["hints"][0].startswith("The method given is post, and methods are case-sensitive")

    async def test_200_a_key_that_need_not_sign(self, owner: Person, frozen_clock: FixedClock) -> None:
        key = await signs(owner)
        assert (await ask_for(owner, key.path, "off")).status_code == 200
        found = await key.told(headers={})
        assert (found["valid"], found["code"]) == (True, None)
        assert found["detail"].startswith("This API key need not sign")


ALPHABET = string.printable[:95] + '";=():,\té\xff☃'
STRANGE: list[Any] = [None, "", 0, -1, 1.5, True, [], {}, [[]], {"": ""}, "\x00", "☃", "é", "a" * 5000, 10**30, "gdn=("]


def mangled(chance: random.Random, text: str) -> str:
    """``text`` with a few characters changed, taken away or added, or with a piece of it twice."""
    letters = list(text)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(letters) + 1)
        match chance.randrange(4):
            case 0:
                letters[place : place + 1] = [chance.choice(ALPHABET)]
            case 1:
                del letters[place : place + chance.randint(1, 4)]
            case 2:
                letters.insert(place, chance.choice(ALPHABET))
            case _:
                letters[place:place] = letters[place : place + 30]
    return "".join(letters)


@pytest.mark.slow
async def test_no_request_makes_it_fail(owner: Person, frozen_clock: FixedClock) -> None:
    """Bodies and fields as a fuzzer writes them: explained, or refused with a code."""
    key, chance, statuses = await signs(owner, "both"), random.Random(9421), dict.fromkeys((200, 422), 0)
    older = {"X-Timestamp": str(NOW * 1000), "X-Signature": by_hmac(key.signing_key["secret"])(b"x").hex()}
    for turn in range(400):
        body = key.body()
        headers = body["headers"] | (older if turn % 3 == 0 else {})
        for name in chance.sample(sorted(headers), chance.randint(1, 3)):
            headers[name] = chance.choice(STRANGE) if chance.random() < 0.02 else mangled(chance, headers[name])
        body["headers"] = headers
        if turn % 4 == 0:
            name = chance.choice([name for name in body if name != "api_key_id"])
            value = body[name]
            body[name] = mangled(chance, value) if isinstance(value, str) else chance.choice(STRANGE)
        answer = await owner.http.post(VERIFY, json=body)
        assert answer.status_code in statuses, (answer.status_code, answer.text, body)
        statuses[answer.status_code] += 1
        if answer.status_code == 200:
            assert key.signing_key["secret"] not in answer.text
            assert turn % 3 or not answer.json()["valid"]
        else:
            problem(answer, 422, "validation_failed")
    assert min(statuses.values()) > 40, statuses
