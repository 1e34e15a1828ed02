"""Hints begin with the fault that the code names; what else was noticed stands behind it."""

from typing import Any

import pytest

from services.identity.signatures.domain.explain import Policy, explain
from services.identity.signatures.domain.explanation import Explanation
from services.identity.signatures.domain.request import request_of, target_of
from tests.services.identity.explained import KEYS, problems, told
from tests.services.identity.handmade import API_KEY_ID, CONTENT, NOW, SECRET, Handmade, by_hmac, digest_of

ACCEPT = ("@method", "@authority", "@path", "@query", "content-digest", "content-type", "accept")


def ask(request: Handmade, *without: str, policy: Policy = "v1", method: str | None = None, **more: str) -> Explanation:
    """What is said of it when some header fields are left out."""
    fields = {name: value for name, value in request.fields().items() if name not in without} | more
    sent = request_of(method or request.method, target_of(request.url), fields, request.content)
    return explain(sent, policy, KEYS, NOW)


FAULTS: list[tuple[Handmade, str, str]] = [
    (Handmade(parameters={"created": f"{NOW}000", "alg": '"x"'}), "signature_algorithm", 'alg: It is "x"'),
    (Handmade(parameters={"created": f"{NOW}000", "keyid": '"x"'}), "signature_key", "keyid: No signing key"),
    (Handmade(parameters={"created": str(NOW - 412), "expires": None}), "signature_incomplete", "expires: It is"),
    (Handmade(parameters={"expires": str(NOW - 1)}, signed={"@method": "post"}), "signature_time", "expires: It is 1 s before"),
    (Handmade(parameters={"nonce": '"x"'}, signed={"@method": "post"}), "signature_incomplete", "nonce: has 1"),
    (Handmade(parameters={"nonce": '"x"'}, listed=ACCEPT[:4]), "signature_incomplete", "The signature must cover "),
    (Handmade(parameters={"tag": '"x"'}, sent=lambda field: field.replace(";", "; ")), "signature_malformed",
     "Signature-Input has spaces"),
    (Handmade(parameters={"tag": '"x"'}, encode=lambda raw: f":{raw.hex()}:"), "signature_missing", "tag: It must be"),
    (Handmade(listed=(*ACCEPT[:6], "@target-uri")), "signature_malformed", "@target-uri: @target-uri is not accepted"),
    (Handmade(listed=ACCEPT), "signature_incomplete", "The signature covers accept, and that is missing"),
    (Handmade(headers={"Content-Digest": digest_of(b"x"), "Content-Type": "a/b"}, signed={"@method": "post"}),
     "signature_mismatch", "Your signature matches if @method is in lower case"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "code", "says"), FAULTS)
def test_the_fault_of_the_code_is_the_first_hint(request_: Handmade, code: str, says: str) -> None:
    found = told(request_)
    assert found.code == code
    assert found.hints[0].startswith(says), found.hints
    assert len(set(found.hints)) == len(found.hints)


class TestFieldsThatWereNotGiven:
    def test_a_content_type_that_is_covered(self) -> None:
        """The secret is not blamed for what was left out."""
        found = ask(Handmade(headers={"Content-Type": "application/json"}), "Content-Type")
        assert found.code == "signature_incomplete"
        assert found.hints[0].startswith(
            "The signature covers content-type, and that is missing among the headers given"
        )
        assert found.hints[1] == (
            "Your signature matches if content-type is application/json; give the field here as it was sent."
        )

    @pytest.mark.parametrize("name", ["Content-Type", "Date"])
    def test_one_whose_value_nobody_can_guess(self, name: str) -> None:
        request = Handmade(headers={"Content-Type": "a/b", "Date": "today"}, listed=(*ACCEPT[:6], "date"))
        request = request.but(signed={"date": "today"})
        found = ask(request, name)
        assert found.hints[0].startswith(f"The signature covers {name.lower()}, and that is missing")
        assert found.hints[1].startswith("Whether the signature is right cannot be told without the value of")
        assert not any("secret" in hint for hint in found.hints), found.hints

    def test_behind_another_fault(self) -> None:
        found = ask(Handmade(parameters={"created": str(NOW - 999)}), "Content-Type")
        assert found.code == "signature_time"
        assert any(hint.startswith("The signature covers content-type") for hint in found.hints[1:])
        assert not any("another secret" in hint for hint in found.hints)

    @pytest.mark.parametrize("signed", [{}, {"@method": "PUT"}])
    def test_content_without_a_type_may_have_had_one(self, signed: dict[str, str | None]) -> None:
        found = told(Handmade(headers={}, signed=signed))
        assert found.hints[-1].startswith("Content-Type is missing among the headers given here")
        assert found.valid is not bool(signed)


class TestFieldsThatWereNotSent:
    @pytest.mark.parametrize(
        ("without", "says"),
        [
            ("Signature", "The request has Signature-Input, and the field Signature is missing"),
            ("Signature-Input", "The request has Signature, and the field Signature-Input is missing"),
        ],
    )
    def test_one_of_two(self, without: str, says: str) -> None:
        found = ask(Handmade(), without)
        assert found.code == "signature_missing"
        assert found.hints[0].startswith(says)
        assert found.detail.startswith(says)

    def test_an_empty_one(self) -> None:
        assert ask(Handmade(), Signature="").hints[0] == "Signature is empty."

    @pytest.mark.parametrize(("there", "missing"), [("X-Timestamp", "X-Signature"), ("X-Signature", "X-Timestamp")])
    def test_one_of_the_older_two(self, there: str, missing: str) -> None:
        found = explain(request_of("POST", target_of(Handmade().url), {there: "1" * 13}, CONTENT), "v0", KEYS, NOW)
        assert found.hints[0] == f"The request has {there}, and the field {missing} is missing."


class TestMethodsInLowerCase:
    def test_given_and_signed(self) -> None:
        found = ask(Handmade(signed={"@method": "post"}), method="post")
        assert (found.valid, found.code) == (False, "bad_request")
        assert found.hints[0].startswith("The method given is post, and methods are case-sensitive")
        assert "Send POST, and sign POST" in found.hints[0]
        assert "@method is in lower case" in found.hints[1]
        assert found.signature_base.startswith('"@method": POST\n')
        assert problems(found)["@method"].endswith("Methods are case-sensitive; send and sign POST.")
        assert found.components[0].value == "post"

    @pytest.mark.parametrize("method", ["post", "Post"])
    def test_given_and_not_signed(self, method: str) -> None:
        found = ask(Handmade(), method=method)
        assert (found.valid, found.code) == (False, "bad_request")
        assert found.hints[1] == "With POST for its method the request would pass."

    def test_signed_and_not_given(self) -> None:
        for signed, says in (("post", "is in lower case"), ("Post", "is not all in upper case")):
            found = told(Handmade(signed={"@method": signed}))
            assert found.hints[0].startswith(f"Your signature matches if @method {says}; sign it in upper case")

    def test_of_the_older_scheme_too(self) -> None:
        signature = by_hmac(SECRET)(f"{NOW}000:".encode() + CONTENT).hex()
        headers = {"X-Timestamp": f"{NOW}000", "X-Signature": signature}
        found = explain(request_of("patch", target_of(Handmade().url), headers, CONTENT), "v0", KEYS, NOW)
        assert (found.code, found.hints[0][:25]) == ("bad_request", "The method given is patch")


class TestWhatTheKeyAsksFor:
    UNSIGNED = Handmade(headers={})

    def unsigned(self, policy: Policy) -> Explanation:
        return ask(self.UNSIGNED, "Signature", "Signature-Input", policy=policy)

    @pytest.mark.parametrize(
        ("policy", "scheme", "says"),
        [
            ("v1", "v1", "signature_policy asks for v1."),
            ("v0", "v0", "signature_policy asks for v0."),
            (
                "both",
                "v1",
                "signature_policy is both: a signature by the older scheme (v0), X-Timestamp and X-Signature, is",
            ),
        ],
    )
    def test_of_an_unsigned_request(self, policy: Policy, scheme: str, says: str) -> None:
        found = self.unsigned(policy)
        assert (found.scheme, found.code) == (scheme, "signature_missing")
        assert found.hints[0].startswith("The request is not signed. Sign signature_base")
        assert says in found.hints[0]

    def test_nothing_while_the_policy_is_off(self) -> None:
        found = self.unsigned("off")
        assert (found.valid, found.code) == (True, None)
        assert found.detail == "This API key need not sign."
        assert found.hints[0].startswith("This API key need not sign: its signature_policy is off")
        assert found.hints[1].startswith("The request is not signed. Sign signature_base")
        assert "must sign" not in f"{found.hints} {found.detail}"

    @pytest.mark.parametrize("request_", [Handmade(), Handmade(signed={"@method": "post"})])
    def test_a_signature_is_explained_while_the_policy_is_off(self, request_: Handmade) -> None:
        found = told(request_, policy="off")
        assert found.detail.startswith("This API key need not sign. If it had to: The signature ")
        assert "PATCH" not in found.detail
        assert found.hints[0].endswith(f'PATCH /v1/api-keys/{API_KEY_ID} with {{"signature_policy": "v1"}}.')
        assert found.valid or found.hints[1].startswith("Your signature matches if @method is in lower case")

    @pytest.mark.parametrize(("policy", "unseen"), [("v1", "X-Timestamp"), ("v0", "Signature-Input"), ("both", "Sig")])
    def test_both_schemes_at_once(self, policy: Policy, unseen: str) -> None:
        more: Any = {"X-Timestamp": f"{NOW}000", "X-Signature": "0" * 64}
        found = ask(Handmade(), policy=policy, **more)
        assert found.hints[-1].startswith(unseen)
        assert "are not looked at" in found.hints[-1]
