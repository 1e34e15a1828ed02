import pytest

from shared.ids import new_id
from shared.vault import Unsealable, Vault, signing_key_context

KEY = bytes(range(32))
SECRET = b"gdns_" + b"x" * 43


def test_what_was_sealed_is_opened_by_the_same_key_for_the_same_place() -> None:
    sealed = Vault(KEY).seal(SECRET, "a:1")
    assert Vault(KEY).open(sealed, "a:1") == SECRET
    assert (sealed[0], len(sealed)) == (1, 29 + len(SECRET))


def test_nothing_of_it_shows_and_twice_is_never_the_same() -> None:
    vault = Vault(KEY)
    first, second = vault.seal(SECRET, "a:1"), vault.seal(SECRET, "a:1")
    assert SECRET[5:] not in first
    assert first[1:13] != second[1:13]
    assert first[13:] != second[13:]


@pytest.mark.parametrize("context", ["a:2", "", "a:1 "])
def test_another_place_does_not_open_it(context: str) -> None:
    with pytest.raises(Unsealable):
        Vault(KEY).open(Vault(KEY).seal(SECRET, "a:1"), context)


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(Unsealable):
        Vault(KEY[::-1]).open(Vault(KEY).seal(SECRET, "a:1"), "a:1")


def test_every_bit_counts() -> None:
    sealed = Vault(KEY).seal(SECRET, "a:1")
    for place in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[place] ^= 1
        with pytest.raises(Unsealable):
            Vault(KEY).open(bytes(damaged), "a:1")


@pytest.mark.parametrize("length", [0, 1, 5, 13, 20, 28, 40])
def test_a_part_of_it_is_nothing(length: int) -> None:
    with pytest.raises(Unsealable):
        Vault(KEY).open(Vault(KEY).seal(SECRET, "a:1")[:length], "a:1")


def test_each_signing_key_has_a_place_of_its_own() -> None:
    organization_id, first, second = new_id(), new_id(), new_id()
    assert signing_key_context(organization_id, first) == f"signing-key:{organization_id}:{first}"
    assert signing_key_context(organization_id, first) != signing_key_context(organization_id, second)
