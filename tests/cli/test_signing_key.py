"""What the variables hold that ``guardian sign`` signs with, and what it says of what they must not hold."""

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from shared.signing.keys import PublicKey
from tests.cli.signing import ENVIRONMENT, SECRET, Signing


def _pem(key: PrivateKeyTypes, password: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def test_an_ed25519_key_signs(signing: Signing, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(_pem(key))
    signing.environment["GUARDIAN_SIGNING_KEY_FILE"] = str(tmp_path / "key.pem")
    arrived = signing.send("-d", "{}")
    assert 'alg="ed25519"' in arrived.of("signature-input")[0]
    arrived.check(PublicKey(SECRET.key_id, key.public_key()))
    assert "--v0 signs with a shared secret alone" in signing.refusal("--v0")


def test_files_without_an_ed25519_key(signing: Signing, tmp_path: Path) -> None:
    file = tmp_path / "it's a key.pem"
    signing.environment["GUARDIAN_SIGNING_KEY_FILE"] = str(file)
    assert signing.refusal().endswith("which cannot be read: No such file or directory")
    for pem in (_pem(generate_private_key(SECP256R1())), b"", b"\xff\0", SECRET.secret):
        file.write_bytes(pem)
        assert "is not an Ed25519 private key in PEM; openssl genpkey -algorithm ed25519" in signing.refusal()
    key = Ed25519PrivateKey.generate()
    openssh = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    for pem in (openssh, openssh.replace(b"AA", b"BB")):
        file.write_bytes(pem)
        assert "which is an OpenSSH key; an Ed25519 private key in PKCS #8 is needed: openssl genpkey -algorithm" in (
            signing.refusal()
        )
    file.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert "which has the public half of a key; the private half is needed" in signing.refusal()


def test_a_key_with_a_password_is_decrypted_as_it_is_told(signing: Signing, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    file = tmp_path / "it's a key.pem"
    file.write_bytes(_pem(key, b"word"))
    signing.environment["GUARDIAN_SIGNING_KEY_FILE"] = str(file)
    refusal = signing.refusal()
    assert "which has a password; decrypt a copy, openssl pkey -in " in refusal
    command = refusal.partition("decrypt a copy, ")[2].partition(", and export")[0]
    subprocess.run(["sh", "-c", f"{command} -passin pass:word"], cwd=tmp_path, check=True)
    assert refusal.endswith("GUARDIAN_SIGNING_KEY_FILE=decrypted.pem")
    signing.environment["GUARDIAN_SIGNING_KEY_FILE"] = str(tmp_path / "decrypted.pem")
    signing.send().check(PublicKey(SECRET.key_id, key.public_key()))


PEM = _pem(Ed25519PrivateKey.generate()).decode()
API_KEY_TEXT, SECRET_TEXT = "gdn_test_0123456789_hidden", "gdns_hidden"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("API_KEY", SECRET_TEXT, "holds the secret of a signing key (gdns_…), which belongs in GUARDIAN_SIGNING_SECRET; an API key"),
        ("API_KEY", SECRET.key_id, "holds the id of a signing key (a UUID), which belongs in GUARDIAN_SIGNING_KEY_ID; an API key"),
        ("API_KEY", "hidden", "does not hold an API key (gdn_…); export it as it was shown"),
        ("API_KEY", PEM, "holds a key in PEM, not an API key (gdn_…); write it to a file, GUARDIAN_SIGNING_KEY_FILE=<file>"),
        ("SIGNING_KEY_ID", SECRET_TEXT, "holds the secret of a signing key (gdns_…), which belongs in"),
        ("SIGNING_KEY_ID", API_KEY_TEXT, "holds an API key (gdn_…), which belongs in GUARDIAN_API_KEY; the id of a signing key"),
        ("SIGNING_KEY_ID", "hidden", "does not hold the id of a signing key (a UUID)"),
        ("SIGNING_SECRET", API_KEY_TEXT, "holds an API key (gdn_…), which belongs in GUARDIAN_API_KEY; the secret of a"),
        ("SIGNING_SECRET", SECRET.key_id, "holds the id of a signing key (a UUID), which belongs in GUARDIAN_SIGNING_KEY_ID"),
        ("SIGNING_SECRET", "hidden", "does not hold the secret of a signing key (gdns_…)"),
        ("SIGNING_SECRET", PEM, "holds a key in PEM, not the secret of a signing key (gdns_…); write it to a file"),
        ("SIGNING_KEY_FILE", SECRET_TEXT, "holds the secret of a signing key (gdns_…), which belongs in GUARDIAN_SIGNING_SECRET"),
        ("SIGNING_KEY_FILE", API_KEY_TEXT, "holds an API key (gdn_…), which belongs in GUARDIAN_API_KEY; a file's name"),
        ("SIGNING_KEY_FILE", PEM, "holds a key itself; write it to a file, and name that"),
    ],
)  # fmt: skip
def test_what_stands_in_the_wrong_variable_is_said_and_not_shown(
    signing: Signing, name: str, value: str, says: str
) -> None:
    signing.environment[f"GUARDIAN_{name}"] = value
    refusal = signing.refusal()
    assert refusal.startswith(f"GUARDIAN_{name} {says}")
    assert "hidden" not in refusal
    assert value not in refusal
    assert PEM.splitlines()[1] not in refusal


def test_the_older_scheme_looks_at_what_it_needs(signing: Signing) -> None:
    signing.environment["GUARDIAN_SIGNING_KEY_ID"] = "anything"
    assert signing.send("--v0").of("x-signature")
    signing.environment["GUARDIAN_SIGNING_SECRET"] = API_KEY_TEXT
    assert signing.refusal("--v0").startswith("GUARDIAN_SIGNING_SECRET holds an API key")


@pytest.mark.parametrize(
    ("name", "path", "field_of_answer"),
    [
        ("GUARDIAN_API_KEY", "/v1/api-keys makes an API key", "key"),
        ("GUARDIAN_SIGNING_KEY_ID", "/v1/api-keys/<id>/signing-keys makes a signing key", "id"),
        ("GUARDIAN_SIGNING_SECRET", "/v1/api-keys/<id>/signing-keys makes a signing key", "secret"),
    ],
)
def test_a_variable_that_is_missing(signing: Signing, name: str, path: str, field_of_answer: str) -> None:
    signing.environment[name] = ""
    refusal = signing.refusal()
    assert refusal.startswith(
        f"{name} is not set. curl -H 'Authorization: Bearer <your key>' -H 'Content-Type: application/json' -d '{{"
    )
    assert f"http://127.0.0.1:8080{path}: export its {field_of_answer} as {name}" in refusal
    assert ("GUARDIAN_SIGNING_KEY_FILE=<file> is used instead of a secret" in refusal) == (field_of_answer == "secret")
    signing.environment[name] = "shown\n"
    assert signing.refusal().startswith(f"{name} has spaces, control characters")


def test_all_that_is_missing_is_named_at_once(signing: Signing) -> None:
    signing.environment |= dict.fromkeys(ENVIRONMENT, "")
    refusal = signing.refusal()
    assert refusal.startswith(
        "GUARDIAN_API_KEY, GUARDIAN_SIGNING_KEY_ID and GUARDIAN_SIGNING_SECRET are not set. curl "
    )
    assert "export its key as GUARDIAN_API_KEY; curl " in refusal
    assert "export its id as GUARDIAN_SIGNING_KEY_ID and its secret as GUARDIAN_SIGNING_SECRET; " in refusal
    older = signing.refusal("--v0")
    assert older.startswith("GUARDIAN_API_KEY and GUARDIAN_SIGNING_SECRET are not set.")
    assert "GUARDIAN_SIGNING_KEY_FILE" not in older
    signing.environment["GUARDIAN_SIGNING_KEY_FILE"] = "ed25519.pem"
    refusal = signing.refusal()
    assert refusal.startswith("GUARDIAN_API_KEY and GUARDIAN_SIGNING_KEY_ID are not set.")
    assert """ -d '{"algorithm": "ed25519", "public_key": "<its public half>"}' http""" in refusal
    assert "instead of a secret" not in refusal
