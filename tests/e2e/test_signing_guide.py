"""The commands of docs/guides/signing.md, pasted into a shell as they stand there."""

import json
import shutil
from collections.abc import Callable

import pytest

from tests.e2e.guides import said
from tests.e2e.platform import POSTGRES, SPLIT, Mode, RunningPlatform, params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(params=params(POSTGRES, SPLIT))
def platform(request: pytest.FixtureRequest, platforms: Callable[[Mode], RunningPlatform]) -> RunningPlatform:
    """What the events travel on changes nothing here."""
    return platforms(request.param)


def test_every_way_to_sign(platform: RunningPlatform) -> None:
    node = shutil.which("node") is not None
    printed = said(platform, "signing", without=() if node else ("Sign in Node.js",))
    assert printed["Make a key that signs"].split() == ["v1", "signature_missing"]
    command, *answers = printed["Sign by the command line"].strip().splitlines()
    assert command.startswith("curl -q -sS ")
    assert answers == ["Ada", "signature_replayed"]
    first, second, replayed = printed["Safe retries"].strip().splitlines()
    assert first == second
    assert replayed.strip() == "idempotency-replayed: true"
    assert printed["Sign in a shell"].strip() == "Grace"
    assert printed["Sign in Python"].strip() == "Radia"
    policy, code, hint, *base = printed["When a signature is refused"].strip().splitlines()
    assert (policy, code) == ("v1", "signature_mismatch")
    assert hint.startswith("Your signature matches if @method is in lower case and @query lacks its '?'; ")
    assert base[0] == '"@method": GET'
    assert base[3] == '"@query": ?limit=5'
    turned_on, contacts, refused, jwks = printed["Signed answers"].split(maxsplit=3)
    assert (turned_on, contacts, refused) == ("True", "2", "422")
    assert json.loads(jwks)["keys"][0]["kid"].startswith("platform-")
    assert printed["Ed25519"].strip() == "Sofia"
    assert printed["Rotate"].split() == ["1", "Margaret", "signature_key"]
    if node:
        assert printed["Sign in Node.js"].strip() == "Barbara"
