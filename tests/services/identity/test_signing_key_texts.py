"""What somebody is told who makes a signing key for the first time, and not as it is meant."""

from base64 import b64decode, b64encode
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.services.identity.support import PUBLIC_KEY, Person, problem
from tests.services.identity.test_api_keys import make
from tests.services.identity.test_signing_keys import PAIR, pem, place, sign_with

PUBLIC = Ed25519PublicKey.from_public_bytes(b64decode(PUBLIC_KEY))
PRIVATE = Ed25519PrivateKey.generate()


def der(key: Any) -> str:
    return b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def openssh(key: Any) -> str:
    return str(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())


def private(key: Any, encoding: Encoding, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    encoded: bytes = key.private_bytes(encoding, form, NoEncryption())
    return encoded.decode() if encoding is Encoding.PEM else b64encode(encoded).decode()


def told(answer: httpx.Response, field: str) -> str:
    """What is said of a field that is not valid."""
    found = problem(answer, 422, "validation_failed", field)
    (message,) = [each["message"] for each in found["errors"] if each["field"] == field]
    return str(message)


PRIVATE_KEYS = {
    "ed25519": private(PRIVATE, Encoding.PEM),
    "in one line": private(PRIVATE, Encoding.PEM).replace("\n", ""),
    "with lines around it": f"Key Attributes: <No Attributes>\n{private(PRIVATE, Encoding.PEM)}",
    "longer than a public key may be": private(generate_rsa(65537, 2048), Encoding.PEM, PrivateFormat.TraditionalOpenSSL),
    "of a curve": private(generate_ec(SECP256R1()), Encoding.PEM, PrivateFormat.TraditionalOpenSSL),
    "of OpenSSH": private(PRIVATE, Encoding.PEM, PrivateFormat.OpenSSH),
    "DER": private(PRIVATE, Encoding.DER),
}  # fmt: skip


class TestThePublicKey:
    @pytest.mark.parametrize("which", PRIVATE_KEYS)
    @pytest.mark.parametrize("rest", [{"algorithm": "ed25519"}, {}], ids=["of ed25519", "without an algorithm"])
    async def test_that_is_a_private_one(self, owner: Person, which: str, rest: dict[str, str]) -> None:
        path = await place(owner)
        answer = await owner.http.post(path, json={**rest, "public_key": PRIVATE_KEYS[which]})
        says = told(answer, "/public_key")
        assert "is a private key" in says
        assert "openssl pkey -in key.pem -pubout" in says
        assert PRIVATE_KEYS[which].strip().splitlines()[-2 if "\n" in PRIVATE_KEYS[which] else -1] not in answer.text

    async def test_that_is_a_private_one_of_a_rotation(self, owner: Person) -> None:
        path = await place(owner)
        rotate = f"{path}/{(await sign_with(owner, path, **PAIR))['id']}/rotate"
        answer = await owner.http.post(rotate, json={"public_key": private(PRIVATE, Encoding.PEM)})
        assert "is a private key" in told(answer, "/public_key")

    async def test_that_is_der(self, owner: Person) -> None:
        made = await sign_with(owner, await place(owner), algorithm="ed25519", public_key=der(PUBLIC))
        assert made["public_key"] == PUBLIC_KEY

    @pytest.mark.parametrize("comment", ["", " ada@laptop, the new one"])
    async def test_that_is_openssh(self, owner: Person, comment: str) -> None:
        made = await sign_with(
            owner, await place(owner), algorithm="ed25519", public_key=f"{openssh(PUBLIC)}{comment}\n"
        )
        assert made["public_key"] == PUBLIC_KEY

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (openssh(generate_ec(SECP256R1()).public_key()), "is an OpenSSH key, and not one of ssh-ed25519"),
            (openssh(PUBLIC).replace("ssh-ed25519 ", "sk-ssh-ed25519@openssh.com "), "is an OpenSSH key, and not one of ssh-ed25519"),
            (openssh(PUBLIC)[:-4], "is not a public key in OpenSSH's form"),
            (f"{openssh(PUBLIC)}\n{openssh(PRIVATE.public_key())}", "is not a public key in OpenSSH's form, one line"),
            (openssh(Ed25519PublicKey.from_public_bytes(bytes(32))), "is not an Ed25519 public key of 32 bytes"),
        ],
        ids=["of a curve", "of a token", "cut short", "two of them", "no sound key"],
    )  # fmt: skip
    async def test_that_is_openssh_and_is_not_taken(self, owner: Person, text: str, says: str) -> None:
        answer = await owner.http.post(await place(owner), json={"algorithm": "ed25519", "public_key": text})
        assert told(answer, "/public_key") == says

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (der(X25519PrivateKey.generate().public_key()), "is not an Ed25519 key"),
            (pem(X25519PrivateKey.generate().public_key()), "is not an Ed25519 key"),
            (b64encode(b64decode(der(PUBLIC)) + b"\0").decode(), "is not a public key in DER"),
            (b64encode(b64decode(der(PUBLIC))[:-1]).decode(), "is not a public key in DER"),
            (b64encode(b64decode(der(PUBLIC))[:12] + bytes(32)).decode(), "is not an Ed25519 public key of 32 bytes"),
            ("MA==", "is not a public key in DER"),
        ],
        ids=[
            "another curve",
            "another curve in PEM",
            "one byte more",
            "one byte less",
            "no sound key",
            "nothing in it",
        ],
    )
    async def test_that_is_none_of_ed25519(self, owner: Person, text: str, says: str) -> None:
        answer = await owner.http.post(await place(owner), json={"algorithm": "ed25519", "public_key": text})
        assert told(answer, "/public_key") == says

    async def test_without_its_algorithm(self, owner: Person) -> None:
        answer = await owner.http.post(await place(owner), json={"public_key": PUBLIC_KEY})
        assert '"algorithm": "ed25519"' in problem(answer, 422, "public_key_not_used", "/public_key")["detail"]

    async def test_in_the_rotation_of_a_secret(self, owner: Person) -> None:
        path = await place(owner)
        rotate = f"{path}/{(await sign_with(owner, path))['id']}/rotate"
        found = problem(await owner.http.post(rotate, json={"public_key": PUBLIC_KEY}), 422, "public_key_not_used")
        assert "A rotation keeps the algorithm" in found["detail"]


class TestTheAlgorithm:
    @pytest.mark.parametrize("algorithm", ["Ed25519", "rsa-pss-sha512", "", None])
    async def test_that_there_is_not(self, owner: Person, algorithm: str | None) -> None:
        says = told(await owner.http.post(await place(owner), json={"algorithm": algorithm}), "/algorithm")
        assert "'hmac-sha256'" in says
        assert "'ed25519'" in says

    @pytest.mark.parametrize("algorithm", ["hmac-sha256", "ed25519", None])
    async def test_of_a_rotation_is_the_old_ones(self, owner: Person, algorithm: str | None) -> None:
        path = await place(owner)
        rotate = f"{path}/{(await sign_with(owner, path))['id']}/rotate"
        says = told(await owner.http.post(rotate, json={"algorithm": algorithm}), "/algorithm")
        assert says.startswith("a rotation keeps the algorithm")


class TestNoBody:
    async def test_is_told_which_to_send(self, owner: Person) -> None:
        path = await place(owner)
        made = await sign_with(owner, path)
        for where in (path, f"{path}/{made['id']}/rotate"):
            answer = await owner.http.post(where)
            assert "{}" in told(answer, "/")
        assert len((await owner.http.get(path)).json()["data"]) == 1

    async def test_who_may_not_is_told_that(self, owner: Person) -> None:
        path = await place(owner)
        problem(await (await owner.limited_to("api_keys:read")).post(path), 403, "missing_scope")


@pytest.mark.parametrize("place_", ["", "/signing-keys", f"/signing-keys/{'0' * 32}"])
async def test_an_api_key_in_the_place_of_its_id(owner: Person, place_: str) -> None:
    key = (await make(owner))["key"]
    answer = await owner.http.get(f"/v1/api-keys/{key}{place_}")
    says = told(answer, "key_id")
    assert says.startswith("this is an API key, which is a secret; send its id")
    assert key not in f"{answer.json()['errors']}{answer.json()['detail']}"
