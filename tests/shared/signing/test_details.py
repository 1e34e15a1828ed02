"""What a refusal says to people: the field that is missing, which way the time is off, what to do next."""

import pytest

from shared.signing import answers, v0, v1
from shared.signing.digests import ContentDigest
from shared.signing.failures import Refused, from_now
from shared.signing.message import Message
from tests.shared.signing.support import CONTENT, NONCE, NOW, PUBLIC, SECRET, message, signed, with_fields


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
    assert "After a rotation sign with the successor; a reroll gives the new API key copies, which have new ids" in (
        caught.value.detail
    )


@pytest.mark.parametrize("names", [("x-timestamp",), ("x-signature",), ("x-timestamp", "x-signature")])
def test_who_signs_by_the_older_scheme_is_told_which_is_asked_for(names: tuple[str, ...]) -> None:
    refused = refusal(with_fields(message(), dict.fromkeys(names, "1")))
    assert refused.code == "signature_missing"
    assert refused.detail == (
        "The request is signed by the older scheme (v0), and this API key asks for signatures of RFC 9421 "
        "(signature_policy: v1): sign it with Signature-Input and Signature."
    )


def test_and_who_signs_by_the_newer_one() -> None:
    for request in (signed(), without(signed(), "signature"), without(signed(), "signature-input")):
        with pytest.raises(Refused) as caught:
            v0.Verification(request, SECRET, NOW)
        assert caught.value.code == "signature_missing"
        assert caught.value.detail == (
            "The request is signed by RFC 9421 (v1), and this API key asks for the older scheme "
            "(signature_policy: v0): sign it with X-Timestamp and X-Signature."
        )


@pytest.mark.parametrize(
    ("name", "field", "says"),
    [
        ("signature-input", "(@method @path);created=1", "names and text in double quotes, which a shell takes away"),
        (
            "signature-input",
            "gdn=(@method @path);created=1",
            "names and text in double quotes, which a shell takes away",
        ),
        (
            "signature-input",
            'gdn=("@method");keyid=stolen',
            "names and text in double quotes, which a shell takes away",
        ),
        ("signature", "stolen", "Write gdn=:…:, the base64 of the signature between colons"),
        ("signature", "gdn=:AAAA: stolen", "Write gdn=:…:, the base64 of the signature between colons"),
    ],
)
def test_a_field_that_cannot_be_read_is_told_how_it_is_written(name: str, field: str, says: str) -> None:
    refused = refusal(with_fields(signed(), {name: field}))
    assert refused.code == "signature_malformed"
    assert says in refused.detail
    assert "stolen" not in refused.detail


def test_so_is_a_digest() -> None:
    with pytest.raises(Refused, match="Content-Digest is not what RFC 9530 asks for, at character ") as caught:
        ContentDigest.read("sha-256=00ff")
    assert caught.value.detail.endswith("Write sha-256=:…:, the base64 of the digest between colons.")


def changed(before: str, after: str) -> Refused:
    """What is said of a signed request whose Signature-Input has this in the place of that."""
    field = signed().fields["signature-input"].replace(before, after)
    assert field != signed().fields["signature-input"]
    return refusal(with_fields(signed(), {"signature-input": field}))


@pytest.mark.parametrize("algorithm", ["sha256", "rsa-v1_5-sha256", "ed25519", "HMAC-SHA256"])
def test_another_algorithm_is_told_that_it_needs_another_key(algorithm: str) -> None:
    refused = changed('alg="hmac-sha256"', f'alg="{algorithm}"')
    assert refused.code == "signature_algorithm"
    assert refused.detail == (
        'This key signs with alg="hmac-sha256". The other algorithm there is, ed25519, needs another signing key (one with '
        "a public key): name its id in keyid."
    )


def test_so_it_is_of_a_public_key() -> None:
    with pytest.raises(Refused, match=r'with alg="ed25519"\. .*, hmac-sha256, needs another .* \(one with a secret\)'):
        v1.verify(signed(), lambda _: PUBLIC, NOW)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('"content-type"', '"Content-Type"', "Names of components are in lower case: write content-type."),
        ('"@method" ', '"@Method" ', "Names of components are in lower case: write @method."),
        ('"@path" "@query"', '"@PATH" "@QUERY"', "Names of components are in lower case: write @path and @query."),
        (
            '"@path" "@query"', '"@Path"',
            "Names of components are in lower case: write @path. The signature must cover @query, too.",
        ),
        ('"@path" "@query" ', "", "The signature must cover @path and @query, too."),
        ('"@authority" "@path" "@query" ', "", "The signature must cover @authority, @path and @query, too."),
    ],
)  # fmt: skip
def test_what_is_not_covered(before: str, after: str, says: str) -> None:
    refused = changed(before, after)
    assert (refused.code, refused.detail) == ("signature_incomplete", says)


def test_a_name_in_capitals_that_need_not_be_covered() -> None:
    refused = changed('"content-type"', '"content-type" "Host"')
    assert (refused.code, refused.detail) == (
        "signature_malformed", '"Host" is not a component that can be signed here: names are in lower case.',
    )  # fmt: skip
    assert "lower case" not in changed('"content-type"', '"content-type" "@status"').detail


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (f";created={NOW}", "", "The signature lacks created, in unix seconds."),
        (f";expires={NOW + 300}", "", "The signature lacks expires, in unix seconds."),
        (f";created={NOW};expires={NOW + 300}", "", "The signature lacks created and expires, in unix seconds."),
        (f"created={NOW}", f'created="{NOW}"', "The signature's created is not a number; write unix seconds without quotes"),
        (f"expires={NOW + 300}", 'expires=""', "The signature's expires is not a number; write unix seconds without quotes"),
    ],
)  # fmt: skip
def test_a_time_that_is_none(before: str, after: str, says: str) -> None:
    refused = changed(before, after)
    assert refused.code == "signature_incomplete"
    assert refused.detail.startswith(says)


@pytest.mark.parametrize(
    ("created", "expires"), [(NOW * 1000, NOW * 1000 + 300_000), (NOW * 1000, NOW + 60), (NOW, NOW * 1000 + 60_000)]
)
def test_a_time_in_milliseconds_is_told_apart(created: int, expires: int) -> None:
    request = with_fields(message(), v1.sign(message(), SECRET, nonce=NONCE, created=created, expires=expires))
    refused = refusal(request)
    assert (refused.code, refused.detail) == (
        "signature_time", "The signature's created or expires is in milliseconds; unix seconds are expected.",
    )  # fmt: skip
