"""Names of components in capitals: in Signature-Input, in the base, or in both."""

import pytest

from services.identity.signatures.domain.explanation import Explanation
from tests.services.identity.explained import RIGHT, one_hint, problems, told
from tests.services.identity.handmade import Handmade, joined

EVERY = ("@method", "@authority", "@path", "@query", "content-digest", "content-type")
ADD = "add it to the list"


def listed(*capitals: str, without: tuple[str, ...] = (), lowered: bool = False) -> Explanation:
    """What is said of these in the list; what is signed has the same names, or them in lower case."""
    names = {name.lower(): name for name in capitals}
    written = tuple(names.get(name, name) for name in EVERY if name not in without)
    values = dict(
        zip(EVERY, ("POST", "api.example.com", "/v1/contacts/caf%C3%A9", "?limit=5&sort=a%20b"), strict=False)
    )
    fields = Handmade().fields()
    values |= {"content-digest": fields["Content-Digest"], "content-type": "application/json; charset=utf-8"}

    def join(lines: list[tuple[str, str]], params: str) -> str:
        return joined([(name.lower() if lowered else name, values[name.lower()]) for name, _ in lines], params)

    return told(Handmade(listed=written, join=join))


class TestInTheList:
    @pytest.mark.parametrize("name", ["Content-Type", "@Method", "CONTENT-DIGEST"])
    def test_comes_first_and_nothing_is_to_be_added(self, name: str) -> None:
        lower = name.lower()
        found = listed(name)
        assert found.code == "signature_incomplete"
        assert found.hints == [
            f"Signature-Input: names of components are in lower case, there as in the base; write {lower} for {name}.",
            found.hints[1],
        ]
        assert found.hints[1].startswith(RIGHT)
        assert ADD not in f"{found.hints} {problems(found)}"
        assert problems(found)[name] == f"A component's name is in lower case; write {lower}."
        assert problems(found)[lower].endswith(
            f"has it as {name}; names of components are in lower case: write {lower} there."
        )
        assert found.components[EVERY.index(lower)].value is not None
        assert " ".join(f'"{each}"' for each in EVERY) in found.signature_base

    def test_beside_one_that_is_missing(self) -> None:
        found = listed("@Path", "Content-Type", without=("@query",))
        assert found.hints[0].startswith("Signature-Input: names of components are in lower case")
        assert (
            "write @path for @Path and content-type for Content-Type. The signature must cover @query, too: add"
            in (found.hints[0])
        )

    def test_in_lower_case_in_the_base(self) -> None:
        first, second = listed("Content-Type", lowered=True).hints
        assert first.startswith("Signature-Input: names of components are in lower case")
        assert second == (
            "Your signature matches if component names are in lower case in the base; write them so in Signature-Input, too."
        )


class TestInTheBaseAlone:
    @pytest.mark.parametrize("name", ["Content-Type", "@Path"])
    def test_one(self, name: str) -> None:
        lower = name.lower()
        found = told(
            Handmade(
                join=lambda lines, params: joined(
                    [(name if each == lower else each, value) for each, value in lines], params
                )
            )
        )
        assert one_hint(found) == (
            f'Your signature matches if the base has the component name "{name}", in capitals; write "{lower}".'
        )
        assert "in capitals" in problems(found)[lower]

    def test_all_fields(self) -> None:
        found = told(Handmade(join=lambda lines, params: joined(
            [(name if name[0] == "@" else name.title(), value) for name, value in lines], params,
        )))  # fmt: skip
        assert one_hint(found) == (
            "Your signature matches if component names are in capitals in the base; write them in lower case."
        )


def test_several_that_are_missing_are_parted_by_and() -> None:
    found = told(Handmade(listed=EVERY[:3]))
    assert found.hints[0] == (
        "The signature must cover @query, content-digest and content-type, too: add them to the list in Signature-Input, "
        "and their lines to the base."
    )
    assert found.detail == "The signature must cover @query, content-type and content-digest, too."
