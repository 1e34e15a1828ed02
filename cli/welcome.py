"""What ``guardian up`` prints once the API answers: where it is, how to get in, what to try first.

Plain text without colours, so that it reads the same in a terminal and in a log. The commands are whole
lines that can be pasted as they are.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from shared.settings import Settings

_EXAMPLE = {"first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.com"}


class Organization(Protocol):
    """What is told of an organisation of the demonstration."""

    @property
    def name(self) -> str: ...
    @property
    def email(self) -> str: ...
    @property
    def password(self) -> str: ...
    @property
    def api_key(self) -> str: ...


def started(settings: Settings) -> str:
    """Where the platform answers, for one without the demonstration."""
    return "\n".join(("", *_addresses(settings), "", "Ctrl-C stops it; the data stays.", ""))


def with_demo(settings: Settings, organizations: Sequence[Organization], path: Path) -> str:
    """The same with both organisations' credentials and two commands to paste. ``path`` is demo.json's."""
    lines = ["", *_addresses(settings)]
    for organization in organizations:
        lines += ["", *_credentials(organization)]
    lines += ["", *_first_steps(settings.base_url, organizations[0].api_key)]
    lines += ["", f"All of this for programs: {path}", "Ctrl-C stops it; the data stays.", ""]
    return "\n".join(lines)


def _addresses(settings: Settings) -> list[str]:
    url = settings.base_url
    mailbox = [f"  Mailbox         {url}/dev/mailbox"] if settings.environment == "development" else []
    return [
        f"Guardian is running at {url}",
        "",
        f"  API reference   {url}/docs",
        f"  OpenAPI         {url}/openapi.json",
        f"  Health          {url}/v1/health",
        *mailbox,
    ]


def _credentials(organization: Organization) -> list[str]:
    return [
        organization.name,
        f"  sign in as      {organization.email}",
        f"  password        {organization.password}",
        f"  API key         {organization.api_key}",
    ]


def _first_steps(url: str, api_key: str) -> list[str]:
    authorization = f"-H 'Authorization: Bearer {api_key}'"
    return [
        "Create a contact:",
        f"  curl -s {url}/v1/contacts {authorization} -H 'Content-Type: application/json' -d '{json.dumps(_EXAMPLE)}'",
        "",
        "See the entry this left in the audit log (target_id=<its id> shows all of one record):",
        f"  curl -s '{url}/v1/audit/events?action=contact.created&limit=1' {authorization}",
    ]
