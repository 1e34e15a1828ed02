"""The structured fields of signatures beside an independent parser."""

from typing import Any

import http_sf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.signing.failures import Refused
from shared.signing.fields import byte_members, quoted, signature_inputs

_NAMES = st.from_regex(r"[a-z][a-z0-9_.*-]{0,8}", fullmatch=True)
_TEXTS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)
_BARE = st.one_of(_TEXTS, st.integers(-(10**15) + 1, 10**15 - 1), st.binary(max_size=9))
_INNER = st.tuples(st.lists(_TEXTS, unique=True, max_size=5), st.dictionaries(_NAMES, _BARE, max_size=4))
_ANY = st.text(st.sampled_from('ab-_.*= ;,:"()\\/019+\t?~é'), max_size=24)
_CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@_CALM
@given(st.dictionaries(_NAMES, _INNER, min_size=1, max_size=3))
def test_inputs_are_read_as_others_write_them(
    inputs: dict[str, tuple[list[str], dict[str, str | int | bytes]]],
) -> None:
    members: Any = {
        label: ([(each, {}) for each in components], parameters) for label, (components, parameters) in inputs.items()
    }
    found = signature_inputs(http_sf.ser(members))
    assert {label: ([*each.components], each.parameters) for label, each in found.items()} == {
        label: ([quoted(each) for each in components], parameters) for label, (components, parameters) in inputs.items()
    }


@_CALM
@given(st.dictionaries(_NAMES, st.binary(max_size=40), min_size=1, max_size=3))
def test_byte_sequences_are_read_as_others_write_them(members: dict[str, bytes]) -> None:
    assert byte_members(http_sf.ser({name: (value, {}) for name, value in members.items()}), "Signature") == members


@_CALM
@given(_ANY)
def test_nothing_is_read_that_others_cannot_read(text: str) -> None:
    for read in (signature_inputs, lambda field: byte_members(field, "Signature")):
        try:
            found = read(text)
        except Refused:
            continue
        parsed: Any = http_sf.parse(text.encode("latin-1"), tltype="dictionary")
        assert set(parsed) == set(found)


def test_a_field_has_an_end() -> None:
    with pytest.raises(Refused, match="longer than"):
        byte_members(f"a=:{'A' * 5_000}:", "Signature")
