"""What is accepted in one look is what all checks, one by one, accept, and nothing else."""

import random
from base64 import b64encode
from itertools import product
from unittest.mock import patch

import pytest

from shared.signing import v1
from shared.signing.failures import Refused
from shared.signing.fields import quoted, signature_inputs
from shared.signing.keys import Verifier
from shared.signing.message import Message, Pair
from tests.shared.signing.support import NONCE, NOW, PRIVATE, PUBLIC, SECRET, message, signed, with_fields

COVERED = ("@method", "@authority", "@path", "@query", "content-digest", "content-type")
AFTER = (
    f';created={NOW};expires={NOW + 300};nonce="{NONCE}";keyid="{SECRET.key_id}";alg="hmac-sha256";tag="guardian-v1"'
)


def find(key_id: str) -> Verifier | None:
    known: dict[str, Verifier] = {SECRET.key_id: SECRET, PUBLIC.key_id: PUBLIC}
    return known.get(key_id)


def outcome(request: Message, now: float) -> tuple[str, ...]:
    """What it is accepted as, or why it is not."""
    try:
        found = v1.verify(request, find, now)
    except Refused as refused:
        return (refused.code,)
    return (found.key_id, found.nonce, str(found.created), str(found.until), str(found.digest is None))


def same(request: Message, now: float = NOW + 1) -> bool:
    """Whether it is accepted; both ways must agree."""
    fast = outcome(request, now)
    with patch.object(v1, "_at_once", return_value=None):
        assert outcome(request, now) == fast, request.headers
    return len(fast) > 1


def by_hand(text: str, request: Message | None = None) -> Message:
    """Signed rightly, whatever ``Signature-Input`` says."""
    unsigned = request or message()
    base = v1.base(unsigned, signature_inputs(f"gdn={text}")["gdn"])
    signature = b64encode(SECRET.sign(base)).decode()
    return with_fields(unsigned, {"signature-input": f"gdn={text}", "signature": f"gdn=:{signature}:"})


def test_what_our_helpers_sign_needs_one_look() -> None:
    requests = [signed(), signed(message("GET", content=b"")), signed(message(more={"idempotency-key": "k"}))]
    requests.append(with_fields(message(), v1.sign(message(), PRIVATE, nonce=NONCE, created=NOW)))
    for request in requests:
        assert v1._at_once(request, find, NOW) is not None
        assert same(request)


@pytest.mark.parametrize("left_out", [(), *((each,) for each in COVERED)])
@pytest.mark.parametrize("more", [(), ("content-length",), ("accept",)])
def test_what_must_be_covered_is_asked_for(left_out: tuple[str, ...], more: tuple[str, ...]) -> None:
    names = [name for name in (*COVERED, *more) if name not in left_out]
    if "accept" not in names:
        request = by_hand(f"({' '.join(map(quoted, names))}){AFTER}")
        assert same(request) is not bool(left_out)
    keyed = message(more={"idempotency-key": "k-1"})
    assert not same(by_hand(f"({' '.join(map(quoted, COVERED))}){AFTER}", keyed))


@pytest.mark.parametrize(
    "text",
    [
        AFTER.replace(f"expires={NOW + 300}", f"expires={NOW + 301}"), AFTER.replace(str(NOW), str(NOW - 302)),
        AFTER.replace(f"expires={NOW + 300}", f"expires={NOW}"), AFTER.replace("ed25519", "x"),
        AFTER.replace("hmac-sha256", "ed25519"), AFTER.replace(SECRET.key_id, PUBLIC.key_id),
        AFTER.replace(SECRET.key_id, "unknown"), AFTER.replace(NONCE, "short"), AFTER.replace("v1", "v2"),
        ";tag" + AFTER.partition(";tag")[2] + AFTER.partition(";tag")[0], AFTER + ";more=1", AFTER.upper(),
    ],
)  # fmt: skip
def test_parameters(text: str) -> None:
    names = " ".join(map(quoted, COVERED))
    try:
        request = by_hand(f"({names}){text}")
    except Refused:
        return
    same(request)


def test_thousands_of_small_changes() -> None:
    chance = random.Random(20_260_115)
    accepted = 0
    originals = [signed(), signed(message(more={"idempotency-key": "k-1", "date": "now"}))]
    for original, _ in product(originals, range(3_000)):
        pairs = list(original.headers)
        changed = _changed(chance, pairs)
        request = Message(original.method, original.path, original.query, changed)
        accepted += same(request, NOW + chance.choice([0, 1, 299, 300, 301, -300, -301]))
    assert accepted > 100


def _changed(chance: random.Random, pairs: list[Pair]) -> list[Pair]:
    place = chance.randrange(len(pairs))
    name, value = pairs[place]
    kind = chance.randrange(6)
    if kind == 0:
        return pairs
    if kind == 1:
        return pairs[:place] + pairs[place + 1 :]
    if kind == 2:
        return [*pairs, (name, chance.choice([value, b"x"]))]
    at = chance.randrange(len(value))
    letter = bytes([chance.choice(b'az09"=;:,() \t\\+/-_.@%\xe9')])
    cut = at + chance.choice([0, 1])
    return [*pairs[:place], (name, value[:at] + letter + value[cut:]), *pairs[place + 1 :]]
