"""Each mistake is made on purpose, by code that is not ours, and the explanation names it."""

import base64
import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from typing import Any

import pytest

from services.identity.signatures.domain.explanation import Keys
from services.identity.signatures.domain.request import request_of, target_of
from shared.signing import v1
from shared.signing.fields import signature_inputs
from shared.signing.keys import PublicKey
from tests.services.identity.explained import one_hint, problems, told
from tests.services.identity.handmade import (
    API_KEY_ID,
    CONTENT,
    KEY_ID,
    NOW,
    SECRET,
    Handmade,
    by_hmac,
    digest_of,
    joined,
)
from tests.shared.signing.support import PRIVATE

DIGEST = hashlib.sha256(CONTENT).digest()
PATH, QUERY = "/v1/contacts/caf%C3%A9", "?limit=5&sort=a%20b"
GET = Handmade("GET", "http://127.0.0.1:8080/v1/contacts", b"", {})


class TestAValidRequest:
    @pytest.mark.parametrize("request_", [Handmade(), GET, GET.but(url=GET.url + "?limit=5")])
    def test_has_nothing_to_mend(self, request_: Handmade) -> None:
        found = told(request_)
        assert (found.valid, found.code, found.scheme, found.hints, problems(found)) == (True, None, "v1", [], {})
        assert found.content_digest.matches is (True if request_.content else None)
        assert all(each.covered and each.required for each in found.components)

    def test_its_base_is_the_one_the_gateway_computes(self) -> None:
        for request in (Handmade(), GET, Handmade(url="https://API.example.com:443/a%2Fb?")):
            sent = request_of(request.method, target_of(request.url), request.fields(), request.content)
            signed = signature_inputs(sent.fields["signature-input"])["gdn"]
            assert told(request).signature_base.encode() == v1.base(sent.message(), signed)

    def test_by_a_public_key(self) -> None:
        keys = Keys(API_KEY_ID, [PublicKey(PRIVATE.key_id, PRIVATE.key.public_key())])
        pair = {"keyid": f'"{PRIVATE.key_id}"', "alg": '"ed25519"'}
        request = Handmade(sign=PRIVATE.sign, parameters=pair)
        assert told(request, keys).valid
        wrong = told(request.but(signed={"@method": "post", "@query": QUERY[1:]}), keys)
        assert "@method is in lower case and @query lacks its '?'" in one_hint(wrong)
        prehashed = told(request.but(sign=lambda text: PRIVATE.sign(hashlib.sha256(text).digest())), keys)
        assert "the base's SHA-256 is signed" in one_hint(prehashed)


VALUES: list[tuple[str, str | None, str]] = [
    ("@method", "post", "@method is in lower case; sign it in upper case"),
    ("@method", "PUT", "@method says PUT; sign POST"),
    ("@authority", "api.example.com:443", "@authority has the default port"),
    ("@authority", "https://api.example.com", "@authority has the scheme"),
    ("@path", "/v1/contacts/caf\xc3\xa9", "@path is percent-decoded; sign the raw path."),
    ("@path", PATH + QUERY, "@path has the query behind it"),
    ("@path", PATH + "/", "@path has a slash at its end"),
    ("@path", PATH.replace("%", "%25"), "@path is percent-encoded once more"),
    ("@path", PATH.lower(), "@path has its percent escapes in lower case"),
    ("@path", PATH[3:], "@path lacks /v1 at its beginning"),
    ("@path", PATH[1:], "@path lacks the slash at its beginning"),
    ("@path", "https://api.example.com" + PATH + QUERY, "@path is the whole URL"),
    ("@query", QUERY[1:], "@query lacks its '?'"),
    ("@query", "?", "@query is empty"),
    ("@query", "?limit=5&sort=a b", "@query is percent-decoded"),
    ("@query", "?limit=5&sort=a+b", "@query has + for %20"),
    ("@query", None, 'the base lacks the line of "@query"'),
    ("content-digest", DIGEST.hex(), "content-digest is the hexadecimal digest"),
    ("content-digest", b64encode(DIGEST).decode(), "content-digest is the base64 alone"),
    ("content-digest", digest_of(CONTENT + b"\n"), "when the content has a line end at its end"),
    ("content-type", "application/json", "content-type lacks its charset"),
    ("content-type", None, 'the base lacks the line of "content-type"'),
]


@pytest.mark.parametrize(("name", "value", "says"), VALUES)
def test_another_value_was_signed(name: str, value: str | None, says: str) -> None:
    found = told(Handmade(signed={name: value}))
    assert (found.valid, found.code) == (False, "signature_mismatch")
    assert one_hint(found).startswith("Your signature matches if ")
    assert says in one_hint(found)
    assert list(problems(found)) == [name]
    right = next(each for each in found.components if each.name == name)
    assert f'"{name}": {right.value}\n' in found.signature_base


@pytest.mark.parametrize(
    ("url", "host", "signed", "says"),
    [
        ("http://127.0.0.1:8080/", {}, "127.0.0.1", "@authority lacks the port"),
        ("http://127.0.0.1:8080/", {}, "localhost:8080", "@authority says localhost"),
        ("https://api.example.com/", {"Host": "API.Example.com"}, "API.Example.com", "is the Host field as it is sent"),
        ("https://proxy.example.com/", {"Host": "api.example.com"}, "proxy.example.com", "is the URL's host"),
        ("https://a.example.com/", {"X-Forwarded-Host": "b.example.com"}, "b.example.com", "X-Forwarded-Host"),
    ],
)
def test_another_host_was_signed(url: str, host: dict[str, str], signed: str, says: str) -> None:
    request = Handmade("GET", url, b"", host)
    listed = ("@method", "@authority", "@path", "@query")
    assert says in one_hint(told(request.but(listed=listed, signed={"@authority": signed})))


BASES: list[tuple[Any, str]] = [
    (lambda lines, params: joined(lines, params) + "\n", "the base ends with a line end"),
    (lambda lines, params: joined(lines, params).replace("\n", "\r\n"), "the base's lines end with CR LF"),
    (lambda lines, params: joined(lines, params).replace("\n", "\\n"), "the base has the characters \\n"),
    (lambda lines, params: joined(lines, params).rpartition("\n")[0], 'lacks the line of "@signature-params"'),
    (
        lambda lines, params: re.sub(r'(?m)^"(.*?)": ', r"\1: ", joined(lines, params)),
        "the names in the base have no quotes",
    ),
    (lambda lines, params: re.sub(r'(?m)^("[^"]*"): ', r"\1:", joined(lines, params)), "no space behind the colon"),
    (lambda lines, params: joined(lines, params).replace("\n", " "), "parted by spaces"),
    (lambda lines, params: joined(lines, params).replace("\n", ""), "are not parted"),
    (lambda lines, params: joined(sorted(lines, reverse=True), params), ""),
    (lambda lines, params: joined(sorted(lines), params), "the base's lines are sorted"),
    (lambda lines, params: joined([(name.title(), value) for name, value in lines], params), ""),
    (lambda lines, params: "\n".join([*(value for _, value in lines), params]), "the base has the values alone"),
    (lambda lines, params: params, "the value of Signature-Input alone"),
    (
        lambda lines, params: hashlib.sha256(joined(lines, params).encode()).hexdigest(),
        "SHA-256 in hexadecimal is signed",
    ),
]


@pytest.mark.parametrize(("join", "says"), BASES)
def test_the_base_was_put_together_otherwise(join: Any, says: str) -> None:
    hint = one_hint(told(Handmade(join=join)))
    assert (says in hint) if says else hint.startswith("No usual mistake")


def sort(parameters: str) -> str:
    """``;b=1;a=2`` by name."""
    return ";".join(sorted(parameters.split(";")))


PARAMS: list[tuple[Any, str]] = [
    (lambda params: f"gdn={params}", "@signature-params has the label"),
    (lambda params: params.partition(")")[0] + ")", "@signature-params lacks the parameters"),
    (lambda params: params.partition(")")[2], "lacks the list of components"),
    (lambda params: params.replace(f";expires={NOW + 60}", ""), "@signature-params lacks expires"),
    (lambda params: params.replace(';tag="guardian-v1"', ""), "@signature-params lacks tag"),
    (lambda params: params.replace(f"created={NOW}", f"created={NOW}000"), f"has created={NOW}000"),
    (lambda params: params.replace('"hmac-sha256"', "hmac-sha256").replace('"guardian-v1"', "guardian-v1"), ""),
    (lambda params: re.sub(r'(?<==)"([^"]*)"', r"\1", params), "its text without quotes"),
    (lambda params: params.partition(")")[0] + ")" + sort(params.partition(")")[2]), "its parameters sorted"),
    (lambda params: params.replace(";", "; "), "spaces behind its semicolons"),
    (lambda params: params.replace('" "', '", "'), "commas"),
    (
        lambda params: params.partition(")")[0].replace('"', "") + ")" + params.partition(")")[2],
        "the list has no quotes",
    ),
    (lambda params: f'"{params}"', "stands in quotes"),
]


@pytest.mark.parametrize(("change", "says"), PARAMS)
def test_other_parameters_were_signed(change: Any, says: str) -> None:
    hint = one_hint(told(Handmade(params_signed=change)))
    assert (says in hint) if says else hint.startswith("No usual mistake")


RAW = SECRET.encode()
FUNCTIONS: list[tuple[Any, str]] = [
    (by_hmac(base64.urlsafe_b64decode(SECRET)), "the secret is base64-decoded first; use its text as it stands"),
    (by_hmac(b64decode(SECRET[5:] + "=")), "the secret is base64-decoded first"),
    (by_hmac(b64decode(SECRET.replace("_", "")[:44])), "the secret is base64-decoded first"),
    (by_hmac(SECRET[5:]), "the secret lacks its beginning, gdns_; use all of its text"),
    (by_hmac(SECRET + "\n"), "the secret has a line end at its end"),
    (by_hmac(f'"{SECRET}"'), "the secret stands in quotes"),
    (by_hmac(b""), "the secret is empty"),
    (by_hmac(RAW.hex()), "the secret is written in hexadecimal"),
    (by_hmac(SECRET.encode("utf-16-le")), "UTF-16"),
    (by_hmac(hashlib.sha256(RAW).digest()), "the secret is hashed first"),
    (by_hmac(KEY_ID), "the signing key's id is the secret"),
    (by_hmac("gdn_test_0123"), "the API key itself is the secret"),
    (lambda text: hmac.new(RAW, text, "sha512").digest(), "HMAC-SHA-512 is used"),
    (lambda text: hmac.new(RAW, text, "sha1").digest(), "HMAC-SHA-1 is used"),
    (lambda text: hashlib.sha256(RAW + text).digest(), "a plain SHA-256 of the secret and the text"),
    (lambda text: hmac.new(text, RAW, "sha256").digest(), "the secret for its message"),
    (by_hmac("another secret"), "No usual mistake explains the signature"),
]


@pytest.mark.parametrize(("sign", "says"), FUNCTIONS)
def test_another_secret_or_function_was_used(sign: Any, says: str) -> None:
    headers = {"Content-Type": "application/json", "Authorization": "Bearer gdn_test_0123"}
    found = told(Handmade(sign=sign, headers=headers))
    assert found.code == "signature_mismatch"
    assert says in one_hint(found)


def test_three_usual_mistakes_at_once() -> None:
    request = Handmade(
        signed={"@method": "post", "@query": QUERY[1:]}, join=lambda lines, params: joined(lines, params) + "\n"
    )
    hint = one_hint(told(request))
    assert "@method is in lower case and @query lacks its '?' and the base ends with a line end" in hint
    assert len(problems(told(request))) == 2
