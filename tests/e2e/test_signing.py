"""Signed requests through the whole platform: made, sent, sent again, and after a restart."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from shared.signing import v0, v1
from shared.signing.digests import content_digest
from shared.signing.keys import SharedSecret
from shared.signing.message import Message
from tests.e2e.platform import POSTGRES, ROOT, SPLIT, Mode, RunningPlatform, params, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CONTENT = b'{"first_name": "Ada"}'


@pytest.fixture(params=params(POSTGRES, SPLIT))
def platform(request: pytest.FixtureRequest, platforms: Callable[[Mode], RunningPlatform]) -> RunningPlatform:
    """What the events travel on changes nothing here."""
    return platforms(request.param)


@pytest.fixture
def signers() -> Iterator[Signers]:
    """Makes signers; their connections are closed in the end."""
    made: list[Signer] = []

    def make(platform: RunningPlatform, policy: str = "v1") -> Signer:
        made.append(Signer(platform, policy))
        return made[-1]

    yield make
    for signer in made:
        signer.client.close()


class Signer:
    """An API key that must sign, with a shared secret."""

    def __init__(self, platform: RunningPlatform, policy: str = "v1") -> None:
        with platform.client() as client:
            key = client.post(
                "/v1/api-keys", json={"name": "signs", "scopes": ["contacts:read", "contacts:write"]}
            ).json()
            made = client.post(f"/v1/api-keys/{key['id']}/signing-keys", json={}).raise_for_status().json()
            client.patch(f"/v1/api-keys/{key['id']}", json={"signature_policy": policy}).raise_for_status()
        self.key, self.secret = key, SharedSecret(made["id"], made["secret"].encode())
        self.client = httpx.Client(
            base_url=platform.base_url, headers={"Authorization": f"Bearer {key['key']}"},
            timeout=30, limits=httpx.Limits(max_connections=50),
        )  # fmt: skip

    def move(self, platform: RunningPlatform) -> None:
        """Go on where the platform listens now."""
        self.client.close()
        self.client = httpx.Client(base_url=platform.base_url, headers=self.client.headers)

    def request(self, content: bytes = CONTENT, path: str = "/v1/contacts", **more: str) -> httpx.Request:
        headers = {"content-type": "application/json", "content-digest": content_digest(content), **more}
        request = self.client.build_request("POST", path, content=content, headers=headers)
        pairs = [(name.lower(), value) for name, value in request.headers.raw]
        message = Message("POST", request.url.raw_path, b"", pairs, scheme="http")
        nonce = secrets.token_urlsafe(18)
        request.headers.update(v1.sign(message, self.secret, nonce=nonce, created=int(time.time())))
        return request

    def send(self, request: httpx.Request, content: bytes | None = None) -> tuple[int, str]:
        """Status and code."""
        if content is not None:
            request = httpx.Request(request.method, request.url, headers=request.headers, content=content)
        answer = self.client.send(request)
        return answer.status_code, answer.json().get("code", "")


Signers = Callable[..., Signer]


def test_a_signature_is_asked_for_and_good_once(platform: RunningPlatform, signers: Signers) -> None:
    signer = signers(platform)
    assert wait_for(lambda: signer.client.post("/v1/contacts", json={}).json()["code"] == "signature_missing")
    signed = signer.request()
    assert signer.send(signed) == (201, "")
    assert signer.send(signed) == (401, "signature_replayed")
    assert signer.send(signer.request(), CONTENT.replace(b"Ada", b"Eve")) == (401, "signature_digest")
    longer = signer.request(b'{"first_name": "' + b"x" * 200_000 + b'"}')
    assert signer.send(longer, b'{"first_name": "' + b"y" * 200_000 + b'"}') == (401, "signature_digest")
    moved = signer.request()
    moved.url = moved.url.copy_with(path="/v1/companies")
    assert signer.send(moved) == (401, "signature_mismatch")


def test_the_older_scheme(platform: RunningPlatform, signers: Signers) -> None:
    signer = signers(platform, "v0")
    fields = v0.sign(signer.secret.secret, time.time_ns() // 1_000_000, CONTENT)
    request = signer.client.build_request(
        "POST", "/v1/contacts", content=CONTENT, headers={"content-type": "application/json", **fields}
    )
    wait_for(lambda: signer.client.post("/v1/contacts", json={}).json()["code"] == "signature_missing")
    assert signer.send(request, b'{"first_name": "Eve"}') == (401, "signature_mismatch")
    assert signer.send(request) == (201, "")
    assert signer.send(request) == (401, "signature_replayed")


@pytest.mark.parametrize("own_platform", params(POSTGRES), indirect=True)
def test_no_restart_makes_a_signature_good_again(own_platform: RunningPlatform, signers: Signers) -> None:
    own_platform.start()
    signer = signers(own_platform)
    wait_for(lambda: signer.client.post("/v1/contacts", json={}).json()["code"] == "signature_missing")
    signed = signer.request()
    assert signer.send(signed) == (201, "")
    for end in (own_platform.stop, own_platform.kill):
        end()
        own_platform.start()
        signer.move(own_platform)
        signed.url = signed.url.copy_with(port=own_platform.port)
        assert signer.send(signed) == (401, "signature_replayed")


def test_a_keyed_request_sent_again_gets_its_answer_again(platform: RunningPlatform, signers: Signers) -> None:
    signer = signers(platform)
    wait_for(lambda: signer.client.post("/v1/contacts", json={}).json()["code"] == "signature_missing")
    signed = signer.request(CONTENT, **{"idempotency-key": secrets.token_hex(8)})
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: signer.client.send(signed), range(50)))
    done = [answer for answer in answers if answer.status_code == 201]
    assert done
    assert len({answer.json()["id"] for answer in done}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in done) == 1
    others = {(answer.status_code, answer.json()["code"]) for answer in answers if answer.status_code != 201}
    assert others <= {(409, "idempotency_in_progress")}
    last = signer.client.send(signed)
    assert (last.status_code, last.content) == (201, done[0].content)
    assert last.headers["idempotency-replayed"] == "true"


def test_a_keyed_request_keeps_its_key(platform: RunningPlatform, signers: Signers) -> None:
    """``Connection`` has fields taken out on the way: without its key each sending would be done."""
    signer = signers(platform)
    wait_for(lambda: signer.client.post("/v1/contacts", json={}).json()["code"] == "signature_missing")
    signed = signer.request(CONTENT, **{"idempotency-key": secrets.token_hex(8)})
    assert signer.send(signed) == (201, "")
    signed.headers["connection"] = "keep-alive, Idempotency-Key"
    assert signer.send(signed) == (401, "signature_incomplete")


def test_a_keyed_request_that_was_refused_does_nothing_later(platform: RunningPlatform, signers: Signers) -> None:
    """It would be possible by then: there is something to restore. A new signature with the same key restores it."""
    signer = signers(platform)
    with platform.client() as client:
        path = f"/v1/contacts/{client.post('/v1/contacts', json={'first_name': 'Ada'}).json()['id']}"
        signed, anew = (signer.request(b"{}", f"{path}/restore", **{"idempotency-key": path}) for _ in range(2))
        assert wait_for(lambda: signer.client.post("/v1/contacts", json={}).json()["code"] == "signature_missing")
        assert signer.send(signed) == (404, "not_found")
        assert client.delete(path).status_code == 204
        assert signer.send(signed) == (401, "signature_replayed")
        assert client.get(path).status_code == 404
        assert signer.send(anew) == (200, "")


@pytest.mark.parametrize("own_platform", params(POSTGRES), indirect=True)
def test_a_keyed_request_gets_its_answer_from_a_platform_that_was_killed(
    own_platform: RunningPlatform, signers: Signers
) -> None:
    own_platform.start()
    signer = signers(own_platform)
    wait_for(lambda: signer.client.post("/v1/contacts", json={}).json()["code"] == "signature_missing")
    signed = signer.request(CONTENT, **{"idempotency-key": secrets.token_hex(8)})
    first = signer.client.send(signed)
    own_platform.kill()
    own_platform.start()
    signer.move(own_platform)
    signed.url = signed.url.copy_with(port=own_platform.port)
    again = signer.client.send(signed)
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("content", ['{"first_name": "O\'Brien"}', "@contact.json"])
def test_the_printed_command_works(platform: RunningPlatform, signers: Signers, tmp_path: Path, content: str) -> None:
    (tmp_path / "contact.json").write_text('{\n  "first_name": "O\'Brien"\n}\n')
    signer = signers(platform)
    wait_for(lambda: signer.client.post("/v1/contacts", json={}).json()["code"] == "signature_missing")
    environment = os.environ | {
        "GUARDIAN_API_KEY": signer.key["key"], "GUARDIAN_SIGNING_KEY_ID": signer.secret.key_id,
        "GUARDIAN_SIGNING_SECRET": signer.secret.secret.decode(), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    words = ["sign", "POST", f"{platform.base_url}/v1/contacts", "-d", content]
    printed = subprocess.run(
        [sys.executable, "-m", "cli.main", *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    answer = subprocess.run(["sh", "-c", printed.stdout.strip()], capture_output=True, text=True, check=True)
    assert '"O\'Brien"' in answer.stdout
