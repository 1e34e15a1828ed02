"""What is wrong with the fields of a signature: how they are written, what they cover, what they say of it."""

import base64
import hashlib
import random
import re
from base64 import b64encode
from typing import Any, get_args

import pytest

from gateway.nonces import Nonce
from gateway.routing import Route
from gateway.signatures import SignatureGate, Signing
from gateway.stages import Call
from services.identity.signatures.domain.explain import explain
from services.identity.signatures.domain.explanation import Ended, Explanation, Keys
from services.identity.signatures.domain.parameters import NAMES
from services.identity.signatures.domain.request import Sent, request_of, target_of
from shared.auth import Principal
from shared.errors import Problem
from shared.ids import NIL
from shared.limits.policies import Operation
from shared.signing.failures import Code
from shared.signing.keys import SharedSecret
from tests.services.identity.explained import KEYS, RIGHT, one_hint, problems, told
from tests.services.identity.handmade import (
    API_KEY_ID,
    CONTENT,
    KEY_ID,
    NOW,
    Handmade,
    digest_of,
    joined,
)

DIGEST = hashlib.sha256(CONTENT).digest()
PATH, QUERY = "/v1/contacts/caf%C3%A9", "?limit=5&sort=a%20b"
GET = Handmade("GET", "http://127.0.0.1:8080/v1/contacts", b"", {})

SENT: list[tuple[Any, str]] = [
    (lambda field: field.replace('"', "'"), "single quotes"),
    (lambda field: field.removeprefix("gdn="), "lacks its label"),
    (lambda field: field.replace('" "', '", "'), "parted by one space"),
    (lambda field: re.sub(r'"(@?[a-z]+(?:-[a-z]+)?)"(?=[ )])', r"\1", field), "components without quotes"),
    (lambda field: field.replace(";", "; "), "spaces around a semicolon"),
    (lambda field: field + ";", "spaces around a semicolon, or one too many"),
    (lambda field: field.replace(f"={NOW};", f"={NOW}.25;"), "a fraction"),
    (lambda field: field.replace(f"={NOW};", f"={NOW}123456789;"), "finer than milliseconds"),
    (lambda field: field.replace('"hmac-sha256"', "hmac-sha256"), "text without quotes"),
]


@pytest.mark.parametrize(("sent", "says"), SENT)
def test_signature_input_is_written_otherwise(sent: Any, says: str) -> None:
    """What was signed is right, and the field cannot be read; or the same as the field was signed."""
    found = told(Handmade(sent=sent))
    assert found.code == "signature_malformed"
    assert found.hints[0].startswith("Signature-Input ")
    assert any(says in hint for hint in found.hints), found.hints
    assert any(hint.startswith(RIGHT) for hint in found.hints), found.hints
    if sent("gdn=") == "gdn=":
        too = told(Handmade(sent=sent, params_signed=lambda params: sent(f"gdn={params}").removeprefix("gdn=")))
        assert any("Signature-Input as it was sent" in hint for hint in too.hints), too.hints


@pytest.mark.parametrize("field", ["gdn", "gdn=", "(", "gdn=()", "x" * 5000, 'gdn=("@method";x)', "=;=;", ")(", "\xff"])
def test_what_nobody_can_read_is_told_what_to_sign(field: str) -> None:
    found = told(Handmade(sent=lambda _: field))
    assert found.code in {"signature_malformed", "signature_missing"}
    assert f'"@path": {PATH}\n' in found.signature_base
    assert f'keyid="{KEY_ID}"' in found.signature_base


SIGNATURES: list[tuple[Any, str, str]] = [
    (lambda raw: f":{raw.hex()}:", "signature_mismatch", "written in hexadecimal"),
    (lambda raw: raw.hex(), "signature_malformed", "not written between colons"),
    (lambda raw: b64encode(raw).decode(), "signature_malformed", "not written between colons"),
    (lambda raw: f":{base64.urlsafe_b64encode(raw).decode()}:", "signature_malformed", "written in base64url"),
    (lambda raw: f":{b64encode(raw).decode().rstrip('=')}:", "signature_malformed", "without its padding"),
    (
        lambda raw: f":{b64encode(raw.hex().encode()).decode()}:",
        "signature_mismatch",
        "the base64 of its hexadecimal text",
    ),
    (lambda raw: f":{b64encode(b64encode(raw)).decode()}:", "signature_mismatch", "base64 twice"),
]


@pytest.mark.parametrize(("encode", "code", "says"), SIGNATURES)
def test_the_signature_is_written_otherwise(encode: Any, code: str, says: str) -> None:
    nonce = next(  # one whose signature has a character in which base64url differs
        f"0123456789abcdef{n}" for n in range(1000) if "+" in Handmade(parameters={"nonce": f'"0123456789abcdef{n}"'}).fields()["Signature"]
    )  # fmt: skip
    found = told(Handmade(encode=encode, parameters={"nonce": f'"{nonce}"'}))
    assert found.code == code
    assert found.hints[0].startswith("Signature is ")
    assert any(says in hint for hint in found.hints), found.hints
    assert any(hint.startswith(RIGHT) for hint in found.hints), found.hints


@pytest.mark.parametrize(
    ("encode", "says"),
    [
        (lambda _: ":AAAA:", "has 3 bytes; hmac-sha256 gives 32"),
        (lambda _: ":!:", "is not base64"),
        (lambda _: ":\xe9:", "is not"),
    ],
)
def test_what_is_no_signature_at_all(encode: Any, says: str) -> None:
    assert any(says in hint for hint in told(Handmade(encode=encode)).hints)


class TestMembersAndLabels:
    def ask(self, signature: Any) -> Explanation:
        fields = Handmade().fields()
        fields["Signature"] = signature(fields["Signature"])
        sent = request_of("POST", target_of(Handmade().url), fields, CONTENT)
        return explain(sent, "v1", KEYS, NOW)

    def test_another_label(self) -> None:
        found = self.ask(lambda field: field.replace("gdn=", "sig1="))
        assert found.code == "signature_missing"
        assert found.hints[0] == "Signature has the label sig1, and Signature-Input gdn; use one."
        assert found.hints[-1].startswith(RIGHT)

    def test_no_label(self) -> None:
        found = self.ask(lambda field: field.removeprefix("gdn="))
        assert any("lacks its label" in hint for hint in found.hints)
        assert found.hints[-1].startswith(RIGHT)

    def test_several_others(self) -> None:
        found = self.ask(lambda field: "a=:AAAA:, b=:AAAA:")
        assert found.hints == ["Signature has no member gdn, which Signature-Input names."]


class TestWhatIsCovered:
    def test_nothing_is_signed(self) -> None:
        request = Handmade()
        fields = {name: value for name, value in request.fields().items() if not name.startswith("Signature")}
        found = explain(request_of("POST", target_of(request.url), fields, CONTENT), "v1", KEYS, NOW)
        assert found.code == "signature_missing"
        assert one_hint(found).startswith("The request is not signed. Sign signature_base")
        assert all(each.required and not each.covered and each.problem for each in found.components)
        assert f"created={NOW};expires={NOW + 300}" in found.signature_base

    def test_a_component_is_missing_in_list_and_base(self) -> None:
        listed = ("@method", "@authority", "@path", "content-digest", "content-type")
        found = told(Handmade(listed=listed))
        assert found.code == "signature_incomplete"
        assert found.hints[0].startswith("The signature must cover @query, too: add it to the list")
        assert found.hints[1].startswith(RIGHT)
        assert 'add "@query" to the list' in problems(found)["@query"]
        assert '"content-type" "@query");created' in found.signature_base
        assert f'\n"@query": {QUERY}\n' in found.signature_base

    def test_a_component_is_missing_in_the_list_alone(self) -> None:
        listed = ("@method", "@authority", "@path", "content-digest", "content-type")
        values = ("@method", "POST"), ("@authority", "api.example.com"), ("@path", PATH), ("@query", QUERY)

        def join(lines: list[tuple[str, str]], params: str) -> str:
            return joined([*values, *lines[3:]], params)

        first, second = told(Handmade(listed=listed, join=join)).hints
        assert first.startswith("The signature must cover @query, too")
        assert 'the base has a line of "@query" besides; list it' in second

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("@target-uri", "@target-uri is not accepted here"), ("Content-Type", "write content-type"),
            ("@bogus", "There is no component @bogus"), ("x-none", "The request does not have it"),
            ('content-type";bs', "parameters is not accepted"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_covered(self, name: str, says: str) -> None:
        every = ("@method", "@authority", "@path", "@query", "content-digest", "content-type")
        field = '"' + name + ("" if '"' in name else '"')
        found = told(Handmade(listed=every, sent=lambda text: text.replace(' "@path"', f' {field} "@path"')))
        assert found.code in {"signature_malformed", "signature_incomplete"}
        assert any(says in problem for problem in problems(found).values()), problems(found)
        assert field not in found.signature_base.rpartition("\n")[2].replace('"content-type"', "", 1)

    def test_content_without_a_digest(self) -> None:
        every = ("@method", "@authority", "@path", "@query", "content-type")
        request = Handmade(listed=every)
        fields = request.fields()
        del fields["Content-Digest"]
        found = explain(request_of("POST", target_of(request.url), fields, CONTENT), "v1", KEYS, NOW)
        assert found.code == "signature_incomplete"
        assert (found.content_digest.expected, found.content_digest.matches) == (digest_of(CONTENT), False)
        assert problems(found)["content-digest"] == "The request has content: send Content-Digest, and cover it."
        assert f'"content-digest": {digest_of(CONTENT)}\n' in found.signature_base

    def test_an_idempotency_key_is_covered_where_there_is_one(self) -> None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": "order-7"}
        assert told(Handmade(headers=headers)).valid
        assert "idempotency-key stands in quotes" in one_hint(
            told(Handmade(headers=headers, signed={"idempotency-key": '"order-7"'}))
        )


class TestWhatWasSent:
    def test_a_path_with_its_host_is_as_good_as_a_url(self) -> None:
        path = Handmade().url.removeprefix("https://api.example.com")
        for url, host in (
            (path, "API.example.com:443"),
            (f"https://ada:secret@api.example.com{path}", "api.example.com"),
        ):
            sent = request_of("POST", target_of(url), Handmade().fields() | {"Host": host}, CONTENT)
            assert explain(sent, "v1", KEYS, NOW).valid

    def test_content_of_another_length_than_was_sent(self) -> None:
        sent = request_of(
            "POST", target_of(Handmade().url), Handmade().fields() | {"Content-Length": "99"}, CONTENT[:-1]
        )
        found = explain(sent, "v1", KEYS, NOW)
        assert (found.code, found.content_digest.matches) == ("signature_digest", False)
        assert found.hints[-1].startswith(
            f"Content-Length is 99, and the content given here has {len(CONTENT) - 1} bytes"
        )

    def test_fields_that_are_no_ascii_are_latin_1_or_else_utf_8(self) -> None:
        for value, raw in (("caf\xe9", b"caf\xe9"), ("\u2603", "\u2603".encode())):
            listed = ("@method", "@authority", "@path", "@query", "x-name")
            made = Handmade("GET", GET.url, b"", {"X-Name": value}, listed, {"x-name": raw.decode("latin-1")})
            found = told(made)
            assert found.valid, found.hints
            assert f'"x-name": {value}\n' in found.signature_base
            assert found.components[-1].value == value


@pytest.mark.parametrize(
    ("field", "says"),
    [
        (f"sha-256=:{DIGEST.hex()}:", "in hexadecimal"),
        (f"sha-256={DIGEST.hex()}", "in hexadecimal"),
        (f"sha-256=:{b64encode(DIGEST.hex().encode()).decode()}:", "the digest's hexadecimal text"),
        (f"sha-256={b64encode(DIGEST).decode()}", "right digest of the content's 36 bytes, and is not written as"),
        (f"SHA-256=:{b64encode(DIGEST).decode()}:", "not written as it must be"),
        (f"sha-256=:{base64.urlsafe_b64encode(DIGEST).decode().rstrip('=')}:", "without its padding"),
        (digest_of(CONTENT + b"\n"), "if the content has a line end at its end"),
        (digest_of(b""), "if the content is empty"),
        (digest_of(b'{"first_name": "Ada", "notes": "caf\\u00e9"}'), "the content's JSON is written in another way"),
        (digest_of(b"something else"), "not that of Content-Digest"),
        ("sha-1=:AAAA:", "neither sha-256 nor sha-512"),
    ],
)  # fmt: skip
def test_the_digest_is_wrong(field: str, says: str) -> None:
    found = told(Handmade(headers={"Content-Type": "application/json", "Content-Digest": field}))
    assert found.code in {"signature_digest", "signature_malformed"}
    assert found.content_digest.matches is False
    assert found.content_digest.found == field
    assert says in (found.content_digest.problem or "")
    assert found.hints[0] == found.content_digest.problem


def test_a_digest_of_sha_512_is_as_good() -> None:
    field = f"sha-512=:{b64encode(hashlib.sha512(CONTENT).digest()).decode()}:"
    found = told(Handmade(headers={"Content-Type": "application/json", "Content-Digest": field}))
    assert (found.valid, found.content_digest.expected) == (True, field)


PARAMETERS: list[tuple[dict[str, str | None], str, str]] = [
    ({"created": str(NOW - 412)}, "signature_time", "It was 412 s ago; 300 s are allowed. Sign each request anew"),
    ({"created": str(NOW + 412), "expires": str(NOW + 500)}, "signature_time", "412 s ahead of the gateway's clock"),
    ({"created": f"{NOW}000"}, "signature_time", "It is in milliseconds; unix seconds are asked for."),
    ({"created": f'"{NOW}"'}, "signature_incomplete", "It is text; write the number without quotes."),
    ({"created": None}, "signature_incomplete", "It is missing; add created="),
    (
        {"created": str(NOW - 60), "expires": str(NOW - 5)},
        "signature_time",
        "It was 5 s ago: the signature has expired.",
    ),
    (
        {"expires": str(NOW + 600)},
        "signature_time",
        f"It is 600 s after created; 300 s are allowed. With this created say expires={NOW + 300}",
    ),
    ({"expires": None}, "signature_incomplete", "It is missing"),
    ({"nonce": '"short"'}, "signature_incomplete", "has 5 characters; 16 to 64"),
    ({"nonce": None}, "signature_incomplete", 'It is missing; add nonce="…"'),
    ({"nonce": "123456789"}, "signature_incomplete", "It is not text"),
    ({"keyid": '"nobody"'}, "signature_key", "No signing key of this API key has this id."),
    ({"keyid": f'"{API_KEY_ID}"'}, "signature_key", "This names the API key"),
    ({"keyid": f'"{KEY_ID.upper()}"'}, "signature_key", f"Write the id as it was given, {KEY_ID}."),
    ({"keyid": None}, "signature_incomplete", "It is missing"),
    ({"alg": '"hmac-sha512"'}, "signature_algorithm", 'It is "hmac-sha512"; this key signs with hmac-sha256.'),
    ({"alg": None}, "signature_incomplete", 'It is missing; add alg="…"; this key signs with hmac-sha256.'),
    ({"tag": '"guardian"'}, "signature_missing", 'It must be tag="guardian-v1".'),
    ({"tag": None}, "signature_missing", 'It is missing; add tag="guardian-v1".'),
]


@pytest.mark.parametrize(("parameters", "code", "says"), PARAMETERS)
def test_a_parameter_is_wrong(parameters: dict[str, str | None], code: str, says: str) -> None:
    found = told(Handmade(parameters=parameters))
    assert found.code == code
    name = list(parameters)[-1 if parameters.get("created") == str(NOW - 60) else 0]
    assert found.hints[0] == f"{name}: {problems(found)[name]}"
    assert says in problems(found)[name]
    if "keyid" in parameters:
        assert "it was made with the signing key" in found.hints[-1]
    else:
        assert found.hints[-1].startswith(RIGHT)
    assert f";{name}=" in found.signature_base


def test_the_key_that_is_named_has_ended_or_cannot_be_read() -> None:
    other = SharedSecret("0198c5a0-0000-7000-8000-000000000032", b"other")
    ended = Keys(API_KEY_ID, [other], ended=Ended(KEYS.good[0], "was revoked 60 s before the request"))
    found = told(Handmade(), ended)
    assert (found.code, problems(found)["keyid"]) == (
        "signature_key", "This signing key was revoked 60 s before the request; sign with another one.",
    )  # fmt: skip
    assert found.hints[0] == f"keyid: {problems(found)['keyid']}"
    assert found.hints[1].startswith(RIGHT)
    found = told(Handmade(), Keys(API_KEY_ID, [], unreadable=[KEY_ID]))
    assert "cannot be read any more" in problems(found)["keyid"]
    assert "has no signing key that works" in found.hints[0]
    assert found.hints[1] == f"keyid: {problems(found)['keyid']}"


class _AllNew:
    """No nonce was ever used."""

    async def remember(self, nonce: Nonce) -> bool:
        return True

    async def spend(self, nonce: Nonce) -> None:
        """Nothing is refused here."""

    async def is_spent(self, nonce: Nonce) -> bool:
        return False


async def _gateway_says(request: Sent, keys: Keys) -> str | None:
    """The code with which the gateway itself refuses a request."""
    signing = Signing("v1", {key.key_id: (key, float("inf")) for key in keys.good})
    principal = Principal(NIL, "api_key", API_KEY_ID)
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in request.fields.items()]
    call = Call(
        request.method, request.path, request.path.encode(), request.query.encode(), pairs,
        Route("/v1/contacts", "crm"), Operation("POST", "/v1/contacts"), principal, signing, request.scheme == "https",
    )  # fmt: skip
    try:
        verified = await SignatureGate(_AllNew(), lambda: NOW).verify(call, None)
        if verified.content is not None:
            verified.content.update(request.content)
            await verified.content.finish(waited=False)
    except Problem as refused:
        return refused.code
    return None


async def test_the_code_is_the_one_that_the_gateway_answers_with() -> None:
    chance, seen = random.Random(9530), set()
    other_digest = {"Content-Type": "a/b", "Content-Digest": digest_of(b"x")}
    requests = [
        Handmade(), GET, Handmade(headers=other_digest), *(Handmade(parameters={name: None}) for name in NAMES),
        Handmade(parameters={"created": str(NOW - 301)}), Handmade(parameters={"keyid": '"nobody"'}),
    ]  # fmt: skip
    for turn in range(200):
        made = requests[turn % len(requests)]
        fields = made.fields()
        if turn >= len(requests):
            name = chance.choice(sorted(fields))
            letters = list(fields[name])
            letters[chance.randrange(len(letters))] = chance.choice('"ab0;=:,() \xe9')
            fields[name] = "".join(letters)
        sent = request_of(made.method, target_of(made.url), fields, made.content)
        found = explain(sent, "v1", KEYS, NOW)
        code = found.code
        assert code is None or found.hints
        assert code == await _gateway_says(sent, KEYS), fields
        seen.add(code)
    assert seen == {None, *get_args(Code)} - {"signature_replayed"}, seen
