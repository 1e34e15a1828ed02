import binascii
import hashlib
import re

from hypothesis import assume, example, given
from hypothesis import strategies as st

from shared.auth import api_key

KEYS = st.sampled_from([api_key.generate(mode).text for mode in ("live", "test") for _ in range(20)])


def test_a_new_key_has_the_documented_form_and_parses() -> None:
    for mode in ("live", "test"):
        made = api_key.generate(mode)
        assert re.fullmatch(rf"gdn_{mode}_[0-9A-Za-z]{{10}}_[0-9A-Za-z]{{38}}", made.text)
        assert len(made.text) == api_key.LENGTH
        assert made.text[api_key.PUBLIC_ID] == made.public_id
        assert made.sha256 == hashlib.sha256(made.text.encode()).digest()
        parsed = api_key.parse(made.text)
        assert parsed is not None
        assert (parsed.public_id, parsed.sha256, parsed.mode) == (made.public_id, made.sha256, mode)


def test_keys_do_not_repeat() -> None:
    made = [api_key.generate("live") for _ in range(500)]
    assert len({key.public_id for key in made}) == len({key.text for key in made}) == 500


@given(KEYS, st.integers(0, api_key.LENGTH - 1), st.characters())
def test_one_wrong_character_is_noticed(text: str, position: int, character: str) -> None:
    assume(character != text[position])
    assert api_key.parse(text[:position] + character + text[position + 1 :]) is None


@given(KEYS, st.integers(0, api_key.LENGTH - 2))
def test_two_neighbours_swapped_are_noticed(text: str, position: int) -> None:
    swapped = text[:position] + text[position + 1] + text[position] + text[position + 2 :]
    assume(swapped != text)
    assert api_key.parse(swapped) is None


@given(KEYS, st.integers(0, api_key.LENGTH - 1))
def test_a_truncated_key_is_noticed(text: str, length: int) -> None:
    assert api_key.parse(text[:length]) is None


@given(st.text())
@example("gdn_live_0123456789_" + "0" * 38)
@example("gdn_live_0123456789_" + "\u0660" * 38)
@example(api_key.generate("live").text + "\n")
def test_any_other_text_is_no_key(text: str) -> None:
    assert api_key.parse(text) is None


@given(KEYS)
def test_the_checksum_is_crc32_in_base62_so_that_other_programs_can_check_it(text: str) -> None:
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    number = 0
    for digit in text[-6:]:
        number = number * 62 + digits.index(digit)
    assert number == binascii.crc32(text[:-6].encode())
