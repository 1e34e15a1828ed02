"""A public key is one signing key of an API key, as long as that one works."""

import asyncio
from base64 import b64decode
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.clock import FixedClock
from tests.services.identity.support import PUBLIC_KEY, Person, problem
from tests.services.identity.test_signing_keys import PAIR, ask_for, pem, place, sign_with


def refused(answer: httpx.Response, signing_key: dict[str, Any]) -> None:
    """That it exists, as which."""
    found = problem(answer, 409, "signing_key_exists")
    assert found["signing_key_id"] == signing_key["id"]
    assert signing_key["id"] in found["detail"]


async def test_409_however_it_is_written(owner: Person) -> None:
    path = await place(owner)
    made = await sign_with(owner, path, **PAIR)
    refused(await owner.http.post(path, json=PAIR), made)
    text = pem(Ed25519PublicKey.from_public_bytes(b64decode(PUBLIC_KEY)))
    refused(await owner.http.post(path, json={**PAIR, "public_key": text}), made)
    assert len((await owner.http.get(path)).json()["data"]) == 1


async def test_409_even_where_there_is_no_room(owner: Person) -> None:
    path = await place(owner)
    made = await sign_with(owner, path, **PAIR)
    for _ in range(4):
        await sign_with(owner, path)
    refused(await owner.http.post(path, json=PAIR), made)


async def test_409_for_one_of_two_requests_at_a_time(owner: Person) -> None:
    path = await place(owner)
    answers = await asyncio.gather(*(owner.http.post(path, json=PAIR) for _ in range(4)))
    (made,) = [answer.json() for answer in answers if answer.status_code == 201]
    for answer in answers:
        if answer.status_code != 201:
            refused(answer, made)


async def test_201_the_same_request_again(owner: Person) -> None:
    path = await place(owner)
    answers = [await owner.http.post(path, json=PAIR, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()


async def test_201_when_it_works_no_more(owner: Person, frozen_clock: FixedClock) -> None:
    path = await place(owner)
    revoked = await sign_with(owner, path, **PAIR)
    await owner.http.delete(f"{path}/{revoked['id']}")
    await sign_with(owner, path, **PAIR, expires_in=60)
    frozen_clock.advance(seconds=60)
    made = await sign_with(owner, path, **PAIR)
    refused(await owner.http.post(path, json=PAIR), made)


async def test_201_for_another_api_key(owner: Person) -> None:
    path = await place(owner)
    await sign_with(owner, path, **PAIR)
    await sign_with(owner, await place(owner), **PAIR)
    await ask_for(owner, path, "v1")
    new = await owner.http.post(f"{path.removesuffix('/signing-keys')}/reroll", json={})
    assert new.status_code == 201
    copies = (await owner.http.get(f"/v1/api-keys/{new.json()['id']}/signing-keys")).json()["data"]
    assert [each["public_key"] for each in copies] == [PUBLIC_KEY]


async def test_409_a_rotation_to_a_public_key_that_is_there(owner: Person) -> None:
    path = await place(owner)
    old = await sign_with(owner, path, **PAIR)
    rotate = f"{path}/{old['id']}/rotate"
    for overlap in (0, 3600):
        refused(await owner.http.post(rotate, json={"public_key": PUBLIC_KEY, "overlap_seconds": overlap}), old)
    other = pem(Ed25519PrivateKey.generate().public_key())
    second = await sign_with(owner, path, algorithm="ed25519", public_key=other)
    refused(await owner.http.post(rotate, json={"public_key": other}), second)
    kept = (await owner.http.get(path)).json()["data"]
    assert [(each["version"], each["expires_at"], each["revoked_at"]) for each in kept] == [(1, None, None)] * 2
