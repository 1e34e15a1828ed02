"""Rules of identity, free of I/O: regions, roles and their scopes, passwords.

This is where every scope of the platform is named; the service that asks for it only writes it down.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

DataRegion = Literal["eu", "us", "ap"]
Role = Literal["owner", "admin", "member", "viewer"]
Mode = Literal["live", "test"]

MIN_PASSWORD = 12
MAX_PASSWORD = 200

_RECORDS = ("contacts", "companies", "deals", "activities", "pipelines", "custom_fields")
_ADMINISTERED = ("audit", "members", "invitations", "api_keys", "organization", "limits")


def _scopes(resources: Iterable[str], *verbs: str) -> frozenset[str]:
    return frozenset(f"{resource}:{verb}" for resource in resources for verb in verbs)


# Everybody sees who else is there: a record's owner is a colleague.
_DIRECTORY = _scopes(("members", "organization", "health"), "read")

ALL_SCOPES = _scopes((*_RECORDS, *_ADMINISTERED), "read", "write") | _DIRECTORY | _scopes(["usage"], "read")

ROLES: Mapping[Role, frozenset[str]] = {
    "owner": ALL_SCOPES,
    "admin": ALL_SCOPES,
    "member": _scopes(_RECORDS, "read", "write") | _DIRECTORY,
    "viewer": _scopes(_RECORDS, "read") | _DIRECTORY,
}
"""What each role may do. What only an owner may do besides (ownership) is no scope: see ``touches_ownership``."""

DESCRIPTIONS: Mapping[Role, str] = {
    "owner": "Everything, and the only one to make or unmake owners.",
    "admin": "Everything but ownership.",
    "member": "Reads and changes records; sees colleagues.",
    "viewer": "Reads records; sees colleagues.",
}


def touches_ownership(*roles: str) -> bool:
    """Whether giving or taking one of these roles is for owners alone."""
    return "owner" in roles


def exceeding(wanted: Iterable[str], held: frozenset[str]) -> list[str]:
    """The scopes of ``wanted`` that a caller with ``held`` lacks, and so cannot give away."""
    return sorted(set(wanted) - held)


# The likeliest passwords of at least MIN_PASSWORD characters in public leaks, without digits at the end.
_COMMON = frozenset(
    [
        "password",
        "passwordpassword",
        "qwertyuiop",
        "qwertyuiopasdfghjkl",
        "qwertyqwerty",
        "qwertyuiopas",
        "asdfghjkl",
        "zxcvbnm",
        "asdfghjklqwertyuiop",
        "adminadmin",
        "administrator",
        "administrador",
        "letmein",
        "letmeinplease",
        "welcome",
        "welcomewelcome",
        "iloveyou",
        "iloveyouforever",
        "iloveyousomuch",
        "changeme",
        "changemenow",
        "changemeplease",
        "passwort",
        "motdepasse",
        "contraseña",
        "contrasena",
        "unbelievable",
        "abcdefghijkl",
        "abcdefghijklmnopqrstuvwxyz",
        "abcabcabcabc",
        "qazwsxedcrfv",
        "qazwsxedc",
        "oneqaztwowsx",
        "trustno",
        "mustangmustang",
        "footballfootball",
        "baseballbaseball",
        "superman",
        "supermansuperman",
        "batmanbatman",
        "princessprincess",
        "sunshinesunshine",
        "sunshine",
        "dragondragon",
        "monkeymonkey",
        "masterofpuppets",
        "mastermaster",
        "secretsecret",
        "secretpassword",
        "mypassword",
        "thisismypassword",
        "yourpassword",
        "newpassword",
        "temppassword",
        "testpassword",
        "defaultpassword",
        "passphrase",
        "correcthorsebatterystaple",
        "guardianguardian",
        "guardian",
    ]
)
_LEET = str.maketrans("@$!013457", "asioleast")
_SEQUENCES = ("0123456789" * 3, "abcdefghijklmnopqrstuvwxyz" * 2, "qwertyuiopasdfghjklzxcvbnm")


def password_problem(password: str, email: str = "", name: str = "") -> str | None:
    """Why a password of the right length is too easy to guess, in words, or None when it is not known to be."""
    plain = password.casefold()
    letters = plain.rstrip("0123456789!.?*#-_ ")
    if {plain, letters, letters.translate(_LEET)} & _COMMON:
        return "is one of the passwords that are tried first"
    if len(set(plain)) < 4:
        return "repeats very few characters"
    if any(plain in sequence or plain[::-1] in sequence for sequence in _SEQUENCES):
        return "is a row of the keyboard or alphabet"
    for own in (email.casefold(), email.partition("@")[0].casefold(), name.casefold()):
        if len(own) >= 6 and len(plain.replace(own, "")) < 6:
            return "is little more than your own name or address"
    return None
