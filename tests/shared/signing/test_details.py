"""What a refusal says to people: the field that is missing, which way the time is off, what to do next."""

import pytest

from shared.signing import answers, v0, v1
from shared.signing.failures import Refused, from_now
from shared.signing.message import Message
from tests.shared.signing.support import CONTENT, NOW, SECRET, message, signed, with_fields


def refusal(request: Message, now: float = NOW) -> Refused:
    with pytest.raises(Refused) as caught:
        v1.verify(request, lambda key_id: SECRET if key_id == SECRET.key_id else None, now)
    return caught.value


def without(request: Message, *names: str) -> Message:
    pairs = [(name, value) for name, value in request.headers if name.decode() not in names]
    return Message(request.method, request.path, request.query, pairs)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("signature",), "The request has Signature-Input, and the field Signature is missing."),
        (("signature-input",), "The request has Signature, and the field Signature-Input is missing;"),
        (("signature", "signature-input"), "The request has no signature;"),
    ],
)
def test_a_field_that_is_missing(names: tuple[str, ...], says: str) -> None:
    refused = refusal(without(signed(), *names))
    assert refused.code == "signature_missing"
    assert refused.detail.startswith(says)


@pytest.mark.parametrize(("name", "says"), [("signature", "Signature"), ("signature-input", "Signature-Input")])
def test_a_field_that_is_empty(name: str, says: str) -> None:
    request = without(signed(), name)
    request = Message(request.method, request.path, request.query, [*request.headers, (name.encode(), b" ")])
    refused = refusal(request)
    assert (refused.code, refused.detail) == ("signature_malformed", f"{says} is empty.")


def test_a_field_that_is_no_base64_is_named() -> None:
    refused = refusal(with_fields(signed(), {"signature": "gdn=:A:"}))
    assert refused.detail == "Signature has a byte sequence that is not base64 between colons."


@pytest.mark.parametrize(
    ("ago", "says"),
    [(4001, "4001 seconds ago"), (-4001, "in 4001 seconds"), (300.2, "301 seconds ago"), (-300.2, "in 301 seconds")],
)
def test_a_moment_in_the_past_was_ago(ago: float, says: str) -> None:
    assert from_now(ago) == says
    refused = refusal(signed(), NOW + ago)
    assert (refused.code, refused.detail) == (
        "signature_time", f"The signature's created is {says}; 300 seconds are allowed.",
    )  # fmt: skip


@pytest.mark.parametrize(("ago", "says"), [(4001, "4001 seconds ago"), (-4001, "in 4001 seconds")])
def test_of_an_answer_and_of_the_older_scheme(ago: int, says: str) -> None:
    request = signed()
    fields = answers.sign(request, answers.Answer(200, [], CONTENT), lambda _: SECRET, created=NOW)
    answer = answers.Answer(200, [(name.lower().encode(), value.encode()) for name, value in fields.items()], CONTENT)
    with pytest.raises(Refused, match=f"The answer's created is {says}; 300 seconds are allowed"):
        answers.verify(request, answer, lambda _: SECRET, NOW + ago)
    older = with_fields(message(), {name.lower(): value for name, value in v0.sign(b"x", NOW * 1000, b"").items()})
    with pytest.raises(Refused, match=f"X-Timestamp, in milliseconds, is {says}; 300 seconds are allowed"):
        v0.Verification(older, SECRET, NOW + ago)


def test_an_answer_without_its_signature() -> None:
    request = signed()
    fields = answers.sign(request, answers.Answer(200, [], b""), lambda _: SECRET, created=NOW)
    pairs = [(name.lower().encode(), value.encode()) for name, value in fields.items() if name != "Signature"]
    with pytest.raises(Refused, match="the field Signature is missing") as caught:
        answers.verify(request, answers.Answer(200, pairs, b""), lambda _: SECRET, NOW)
    assert caught.value.code == "signature_missing"


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ((), "The request is not signed: it must have X-Timestamp and X-Signature."),
        (("x-timestamp",), "The request has X-Timestamp, and the field X-Signature is missing."),
        (("x-signature",), "The request has X-Signature, and the field X-Timestamp is missing."),
    ],
)
def test_a_field_of_the_older_scheme_that_is_missing(there: tuple[str, ...], says: str) -> None:
    fields = {name.lower(): value for name, value in v0.sign(b"x", NOW * 1000, b"").items()}
    with pytest.raises(Refused) as caught:
        v0.Verification(with_fields(message(), {name: fields[name] for name in there}), SECRET, NOW)
    assert (caught.value.code, caught.value.detail) == ("signature_missing", says)


def test_whose_key_has_ended_is_told_of_its_successor() -> None:
    with pytest.raises(Refused) as caught:
        v1.verify(signed(), lambda _: None, NOW)
    assert caught.value.code == "signature_key"
    assert "After a rotation sign with the successor" in caught.value.detail
