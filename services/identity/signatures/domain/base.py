"""The signature base of RFC 9421 (§2.5), and the text that somebody may have signed instead of it."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace

from services.identity.signatures.domain.covered import Lines
from services.identity.signatures.domain.search import Check

Layout = Callable[[Lines, str], str]

_PARAMETER = re.compile(r';([a-z*][a-z0-9_\-.*]*)=("(?:[^"\\]|\\.)*"|[^;"]*)')


def rows(lines: Lines, params: str) -> list[str]:
    """The lines with that of the parameters."""
    return [*(f"{name}: {value}" for name, value in lines), f'"@signature-params": {params}']


def standard(lines: Lines, params: str) -> str:
    """As RFC 9421 puts them together."""
    return "\n".join(rows(lines, params))


@dataclass(frozen=True, slots=True)
class Draft:
    """What may have been signed, with what."""

    lines: Lines
    params: str
    signature: bytes
    check: Check
    layout: Layout = standard
    hashed: Callable[[bytes], bytes] | None = None

    def text(self) -> bytes:
        """The text that was signed."""
        text = self.layout(self.lines, self.params).encode("latin-1", "replace")
        return text if self.hashed is None else self.hashed(text)

    def signed_by(self, check: Check) -> Draft:
        """The same, with another key."""
        return replace(self, check=check)

    def with_line(self, identifier: str, value: str) -> Draft:
        """The same, with another value of a component."""
        return replace(self, lines=tuple((name, value if name == identifier else old) for name, old in self.lines))

    def with_name(self, identifier: str, name: str) -> Draft:
        """The same, with another name of a component."""
        return replace(self, lines=tuple((name if each == identifier else each, value) for each, value in self.lines))

    def without_line(self, identifier: str) -> Draft:
        """The same without a component's line."""
        return replace(self, lines=tuple(line for line in self.lines if line[0] != identifier))


def parts_of(text: str) -> tuple[str, list[tuple[str, str]]]:
    """A member of ``Signature-Input``: the list with its parentheses, and the parameters with their values as written."""
    end = text.rfind(")") + 1
    return text[:end], _PARAMETER.findall(text[end:])


def joined(listed: str, parameters: list[tuple[str, str]], before: str = ";") -> str:
    """The parts put together again; ``before`` is what stands before each parameter."""
    return listed + "".join(f"{before}{name}={value}" for name, value in parameters)


def _unquoted(lines: Lines, params: str) -> str:
    return "\n".join([*(f"{name[1:-1]}: {value}" for name, value in lines), f"@signature-params: {params}"])


def _values(lines: Lines, params: str) -> str:
    return "\n".join([*(value for _, value in lines), params])


def _titled(lines: Lines, params: str) -> str:
    return standard(tuple((name.title() if name[1] != "@" else name, value) for name, value in lines), params)


def _lowered(lines: Lines, params: str) -> str:
    return standard(tuple((name.lower(), value) for name, value in lines), params)


LAYOUTS: tuple[tuple[str, str, Layout, bool], ...] = (
    ("the base ends with a line end", "join the lines without one behind the last",
     lambda lines, params: standard(lines, params) + "\n", True),
    ("the base's lines end with CR LF", "part them with LF alone",
     lambda lines, params: "\r\n".join(rows(lines, params)), True),
    ("the base's lines all end with CR LF, the last one too", "part them with LF alone",
     lambda lines, params: "\r\n".join([*rows(lines, params), ""]), False),
    (r"the base has the characters \n where a line ends", "write real line ends (printf, not echo)",
     lambda lines, params: "\\n".join(rows(lines, params)), True),
    ('the base lacks the line of "@signature-params"', "add it as the last one",
     lambda lines, params: "\n".join(rows(lines, params)[:-1]), True),
    ('the base lacks the line of "@signature-params" and ends with a line end', "add it as the last one",
     lambda lines, params: "\n".join([*rows(lines, params)[:-1], ""]), False),
    ("the names in the base have no quotes", 'write "@method": …, with them', _unquoted, True),
    ("@signature-params has no quotes in the base", 'write "@signature-params": …, with them',
     lambda lines, params: "\n".join([*rows(lines, params)[:-1], f"@signature-params: {params}"]), False),
    ("the base's lines have no space behind the colon", 'write "@method": …, with one',
     lambda lines, params: "\n".join(row.replace('": ', '":', 1) for row in rows(lines, params)), False),
    ("component names are in capitals in the base", "write them in lower case", _titled, False),
    ("component names are in lower case in the base", "write them so in Signature-Input, too", _lowered, False),
    ("the base has the values alone", 'write "@method": … and so on', _values, False),
    ("the base begins with @signature-params", "write it last",
     lambda lines, params: "\n".join([rows(lines, params)[-1], *rows(lines, params)[:-1]]), False),
    ("the base begins with a line end", "begin with the first component",
     lambda lines, params: "\n" + standard(lines, params), False),
    ("the base's lines are parted by spaces", "part them with LF",
     lambda lines, params: " ".join(rows(lines, params)), False),
    ("the base's lines are not parted", "part them with LF", lambda lines, params: "".join(rows(lines, params)), False),
    ("the base is the value of Signature-Input alone", 'sign the lines of the components, then "@signature-params"',
     lambda _, params: params, False),
    ("the base is encoded as UTF-8 where a field's bytes are latin-1", "sign the very bytes that are sent",
     lambda lines, params: standard(lines, params).encode().decode("latin-1"), False),
)  # fmt: skip
"""Ways to put the base together: what is assumed, what to do, how, and whether it is usual."""

HASHES: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    ("the base's SHA-256 is signed, not the base", lambda text: hashlib.sha256(text).digest()),
    (
        "the base's SHA-256 in hexadecimal is signed, not the base",
        lambda text: hashlib.sha256(text).hexdigest().encode(),
    ),
    ("the base's SHA-512 is signed, not the base", lambda text: hashlib.sha512(text).digest()),
    ("the base is base64-encoded before it is signed", b64encode),
)
"""What may be done to the base before it is signed."""
