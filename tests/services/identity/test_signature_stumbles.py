"""What new users stumbled over: the explanation names it, and says what to do next."""

from typing import Any

import pytest

from services.identity.signatures.domain.explain import Policy, explain
from services.identity.signatures.domain.explanation import Elsewhere, Ended, Explanation, Keys
from services.identity.signatures.domain.request import request_of, target_of
from shared.signing.keys import PublicKey, SharedSecret
from tests.services.identity.explained import KEYS, RIGHT, one_hint, problems, told
from tests.services.identity.handmade import API_KEY_ID, CONTENT, KEY_ID, NOW, SECRET, Handmade, by_hmac, digest_of
from tests.shared.signing.support import PRIVATE

FORM, JSON = "application/x-www-form-urlencoded", "application/json"
OTHER_ID = "0198c5a0-0000-7000-8000-000000000032"
OTHER_SECRET = "gdns_" + "Xy9" * 14 + "Q"
TIME = str(NOW * 1000)


def given(request: Handmade, content: bytes | None = None, policy: Policy = "v1", **more: str) -> Explanation:
    """What is said of it when this is told of its content, and ``more`` of its fields."""
    fields = request.fields() | {name.replace("_", "-"): value for name, value in more.items()}
    sent = request_of(request.method, target_of(request.url), fields, request.content if content is None else content)
    return explain(sent, policy, KEYS, NOW)


def older(
    policy: Policy = "v0", keys: Keys = KEYS, content: bytes = CONTENT, sign: Any = None, **more: str
) -> Explanation:
    """What is said of a request by the older scheme, whose content is ``CONTENT``."""
    signature = (sign or by_hmac(SECRET))(f"{TIME}:".encode() + CONTENT).hex()
    fields = {"X-Timestamp": TIME, "X-Signature": signature, "Content-Type": JSON}
    fields |= {name.replace("_", "-"): value for name, value in more.items()}
    return explain(request_of("POST", target_of(Handmade().url), fields, content), policy, keys, NOW)


class TestContentType:
    def test_json_is_signed_and_curl_sends_its_own(self) -> None:
        found = told(Handmade(headers={"Content-Type": FORM}, signed={"content-type": JSON}))
        assert found.code == "signature_mismatch"
        assert found.hints[0] == (
            f"Your signature matches if content-type is {JSON} where {FORM} is sent; send what you sign (for curl: "
            "-H 'Content-Type: application/json')."
        )
        assert "answers 415" in found.hints[1]
        assert "content-type" in problems(found)

    def test_the_other_way_round(self) -> None:
        found = told(Handmade(headers={"Content-Type": JSON}, signed={"content-type": FORM}))
        assert one_hint(found) == (
            f"Your signature matches if content-type is {FORM} where {JSON} is sent; sign {JSON}, which is sent."
        )

    def test_beside_another_mistake(self) -> None:
        request = Handmade(headers={"Content-Type": FORM}, signed={"content-type": JSON, "@method": "post"})
        assert "@method is in lower case and content-type is application/json where" in told(request).hints[0]

    def test_none_is_valid_and_the_api_does_not_take_it(self) -> None:
        found = told(Handmade(headers={}))
        assert found.valid
        assert "the API answers 415 to it, however it is signed" in one_hint(found)
        assert "-H 'Content-Type: application/json'" in one_hint(found)

    @pytest.mark.parametrize(("sent", "refused"), [
        (FORM, True), ("text/plain; charset=utf-8", True), (JSON, False), ("Application/JSON;charset=utf-8", False),
        ("application/merge-patch+json", False),
    ])  # fmt: skip
    def test_one_that_the_api_does_not_take(self, sent: str, refused: bool) -> None:
        for found in (told(Handmade(headers={"Content-Type": sent})), older(Content_Type=sent)):
            assert found.valid
            assert [hint[:49] for hint in found.hints] == [
                "The API takes JSON alone, and answers 415 to cont"
            ] * refused
            assert ("curl's -d sends" in str(found.hints)) == (sent == FORM)

    def test_nothing_is_said_of_it_without_content(self) -> None:
        assert told(Handmade("GET", content=b"", headers={})).hints == []


class TestContentThatWasNotGiven:
    SAYS = "No content was given to this route, and {} says that the request has some: give it as content "

    def test_the_digest_tells(self) -> None:
        found = given(Handmade(), b"")
        assert (found.code, found.content_digest.matches) == ("signature_digest", False)
        assert found.hints[0] == found.content_digest.problem == found.detail
        assert found.hints[1].startswith(RIGHT)
        assert found.hints[0].startswith(self.SAYS.format("Content-Digest"))
        assert (found.content_digest.expected, found.content_digest.found) == (None, digest_of(CONTENT))

    def test_the_length_tells(self) -> None:
        request = Handmade("POST", content=b"", headers={"Content-Type": JSON})
        found = given(request, Content_Length="35")
        assert found.code == "signature_incomplete"
        assert found.hints[-1].startswith(self.SAYS.format("Content-Length"))
        assert digest_of(b"") not in str(found)

    def test_of_the_older_scheme(self) -> None:
        found = older(content=b"", Content_Length=str(len(CONTENT)))
        assert found.code == "signature_mismatch"
        assert one_hint(found).startswith(self.SAYS.format("Content-Length"))
        assert found.signature_base == f"{TIME}:<the content>"

    def test_of_the_older_scheme_nothing_tells(self) -> None:
        found = older(content=b"")
        assert found.hints[0].startswith("No usual mistake")
        assert found.hints[1] == "No content was given to this route: if the request had some, give it, too."

    def test_the_digest_of_nothing_tells_nothing(self) -> None:
        headers = {"Content-Digest": digest_of(b""), "Content-Type": JSON}
        assert told(Handmade("POST", content=b"", headers=headers)).valid
        assert "No content was given" not in str(given(Handmade(content=b"", headers=headers), Content_Length="0"))


class TestWhatTheKeyLacks:
    NONE = f"This API key has no signing key that works: make one with POST /v1/api-keys/{API_KEY_ID}/signing-keys and {{}}."

    def test_while_the_policy_is_off_that_comes_first(self) -> None:
        wrong = Handmade(sign=by_hmac("another"))
        for found, scheme in ((told(wrong, policy="off"), "v1"), (older("off", sign=by_hmac("another")), "v0")):
            assert found.code == "signature_mismatch"
            assert found.hints[0].startswith("This API key need not sign: its signature_policy is off")
            assert found.hints[0].endswith(f'PATCH /v1/api-keys/{API_KEY_ID} with {{"signature_policy": "{scheme}"}}.')
            assert found.hints[1].startswith("No usual mistake")

    @pytest.mark.parametrize("policy", ["off", "v1", "v0", "both"])
    def test_a_key_to_sign_with(self, policy: Policy) -> None:
        none = Keys(API_KEY_ID, [])
        for found in (told(Handmade(), none, policy=policy), older(policy, none)):
            assert found.hints[0] == self.NONE
            assert "public keys alone" not in str(found.hints)
            assert ("need not sign" in found.hints[1]) == (policy == "off")

    def test_a_shared_secret(self) -> None:
        found = older(keys=Keys(API_KEY_ID, [PublicKey(KEY_ID, PRIVATE.key.public_key())]))
        assert "needs a shared secret, and this API key has public keys alone" in one_hint(found)


class TestKeysOfOtherApiKeys:
    ELSEWHERE = Elsewhere(OTHER_ID, "other-api-key", key=SharedSecret(OTHER_ID, OTHER_SECRET.encode()))
    REQUEST = Handmade(parameters={"keyid": f'"{OTHER_ID}"'}, sign=by_hmac(OTHER_SECRET))

    def ask(self, elsewhere: Elsewhere, **fields: Any) -> Explanation:
        found = told(self.REQUEST.but(**fields), Keys(API_KEY_ID, KEYS.good, elsewhere=elsewhere))
        assert found.code == "signature_key"
        assert found.hints[0].startswith("keyid: This is a signing key of another API key, other-api-key. ")
        assert OTHER_SECRET[5:] not in str(found)
        return found

    def test_its_secret_is_tried(self) -> None:
        found = self.ask(self.ELSEWHERE)
        assert "Sign with a signing key of the very API key that you send" in found.hints[0]
        assert "give it here as api_key_id" in found.hints[0]
        assert found.hints[1].startswith(RIGHT)
        wrong = self.ask(self.ELSEWHERE, signed={"@method": "post"})
        assert wrong.hints[1].startswith("Your signature matches if @method is in lower case;")
        mine = self.ask(self.ELSEWHERE, sign=by_hmac(SECRET))
        assert mine.hints[1].startswith(f"Your signature matches if it was made with the signing key {KEY_ID}; name in")

    def test_of_a_live_one_nothing_is_tried(self) -> None:
        for sign in (by_hmac(OTHER_SECRET), by_hmac("wrong")):
            found = self.ask(Elsewhere(OTHER_ID, "other-api-key", live=True), sign=sign)
            assert "That is a live key, whose signatures are not explained." in found.hints[0]
            assert found.hints[1:] == ["Whether the signature is right is not told: it names a live key."]

    def test_a_copy_is_named(self) -> None:
        found = self.ask(Elsewhere(OTHER_ID, "other-api-key", copy=KEY_ID, key=self.ELSEWHERE.key))
        assert found.hints[0].endswith(f"{API_KEY_ID}, has a copy of it with the same secret: name {KEY_ID}.")


class TestTimes:
    @pytest.mark.parametrize("late", [600, 600.2, 600.9])
    def test_hint_and_detail_count_alike(self, late: float) -> None:
        count = 601 if late > 600 else 600
        found = told(Handmade(), at=NOW + late)
        assert found.hints[0].startswith(
            f"created: It was {count} s ago; 300 s are allowed. Sign each request anew, just"
        )
        assert f"{count} seconds ago" in found.detail
        sent = {"X-Timestamp": TIME, "X-Signature": "0" * 64}
        by_older = explain(request_of("GET", target_of(Handmade().url), sent, b""), "v0", KEYS, NOW + late)
        assert by_older.hints[0].startswith(f"X-Timestamp: It was {count} s ago; 300 s are allowed. Sign each")
        assert f"{count} seconds ago" in by_older.detail

    def test_one_that_has_expired(self) -> None:
        found = told(Handmade(), at=NOW + 60.5)
        assert found.hints[0] == (
            "expires: It was 1 s ago: the signature has expired. Sign each request anew, just before it is sent."
        )

    def test_one_that_is_good_for_too_long(self) -> None:
        found = told(Handmade(parameters={"expires": str(NOW + 3600)}))
        assert found.hints[0] == (
            f"expires: It is 3600 s after created; 300 s are allowed. With this created say expires={NOW + 300}, or sooner."
        )

    @pytest.mark.parametrize(
        ("expires", "says"),
        [(NOW - 60, "It is 60 s before created, and must come after it"), (NOW, "It is created itself, and must")],
    )
    def test_expires_before_created(self, expires: int, says: str) -> None:
        found = told(Handmade(parameters={"expires": str(expires)}))
        assert found.code == "signature_time"
        assert found.hints[0].startswith(f"expires: {says}")

    def test_milliseconds_are_told_before_an_age(self) -> None:
        found = told(Handmade(parameters={"created": str(NOW - 400), "expires": f"{NOW}000"}))
        assert found.hints[0].startswith("expires: It is in milliseconds")

    def test_expires_before_a_created_that_is_too_old(self) -> None:
        found = told(Handmade(parameters={"created": str(NOW - 400), "expires": str(NOW - 460)}))
        assert found.hints[0].startswith("created: It was 400 s ago; 300 s are")
        assert found.hints[2].startswith("expires: It is 60 s before created")


class TestSecrets:
    FORMER = Keys(API_KEY_ID, KEYS.good, former=[
        Ended(PublicKey("public", PRIVATE.key.public_key()), "was revoked 9 s before the request"),
        Ended(SharedSecret(OTHER_ID, OTHER_SECRET.encode()), "was replaced, and ended 5 s before the request", KEY_ID),
    ])  # fmt: skip
    MADE = (
        f"it was made with the signing key {OTHER_ID}, which was replaced, and ended 5 s before the request; sign with"
    )

    def test_of_before_a_rotation(self) -> None:
        found = told(Handmade(sign=by_hmac(OTHER_SECRET)), self.FORMER)
        assert one_hint(found) == f"Your signature matches if {self.MADE} {KEY_ID}, which keyid names."
        assert one_hint(older(keys=self.FORMER, sign=by_hmac(OTHER_SECRET))).endswith(f"{self.MADE} {KEY_ID}.")

    def test_of_before_a_rotation_and_another_mistake(self) -> None:
        found = told(Handmade(sign=by_hmac(OTHER_SECRET), signed={"@method": "post"}), self.FORMER)
        assert "@method is in lower case and it was made with the signing key" in one_hint(found)

    @pytest.mark.parametrize(
        ("secret", "says"),
        [
            (SECRET[:-1], "the secret lacks its last character; use all of its 48 characters"),
            (SECRET[:-4], "the secret lacks its last 4 characters"),
            (SECRET[1:], "the secret lacks its first character"),
            (SECRET[5:], "the secret lacks its beginning, gdns_"),
            (f" {SECRET}", "the secret has a space at its beginning"),
            (f" {SECRET} ", "the secret has a space on either side"),
        ],
    )
    def test_cut_short_or_with_a_space(self, secret: str, says: str) -> None:
        assert says in one_hint(told(Handmade(sign=by_hmac(secret))))
        assert says in one_hint(older(sign=by_hmac(secret)))

    def test_nobody_can_guess_one_piece_by_piece(self) -> None:
        """Whoever knows less than nearly all of it learns nothing from being told that the rest is missing."""
        for length in range(len(SECRET) - 4):
            if length:
                assert one_hint(told(Handmade(sign=by_hmac(SECRET[:length])))).startswith("No usual mistake")
            assert length < 6 or one_hint(told(Handmade(sign=by_hmac(SECRET[length:])))).startswith("No usual mistake")

    def test_what_one_looks_like(self) -> None:
        for found in (told(Handmade(sign=by_hmac("x"))), older(sign=by_hmac("x"))):
            assert "begins with gdns_ and has 48 characters: use all of them, without a space or a line" in one_hint(
                found
            )
            assert "is not the API key (gdn_…)" in one_hint(found)

    def test_a_private_key_has_no_such_looks(self) -> None:
        keys = Keys(API_KEY_ID, [PublicKey(KEY_ID, PRIVATE.key.public_key())])
        found = told(Handmade(parameters={"alg": '"ed25519"'}, sign=lambda _: bytes(64)), keys)
        assert one_hint(found).endswith("it was made with another private key.")
