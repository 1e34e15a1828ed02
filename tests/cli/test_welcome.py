"""The greeting: complete, and its commands can be pasted."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from cli import welcome
from shared.settings import Settings


@dataclass
class Organization:
    name: str = "Quillmoor Instruments"
    email: str = "hanna@quillmoor.example"
    password: str = "open-sesame"
    api_key: str = "gdn_live_first"


def _settings() -> Settings:
    return Settings(port=8099)


def _command(text: str, path: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.strip().startswith("curl") and path in line]
    return shlex.split(line)


def test_without_the_demo_it_says_where_everything_is() -> None:
    text = welcome.started(_settings())
    assert "http://127.0.0.1:8099/docs" in text
    assert "http://127.0.0.1:8099/v1/health" in text
    assert "password" not in text


def test_the_demo_shows_both_ways_in() -> None:
    second = Organization("Tinderbrook Studio", "theo@tinderbrook.example", "other-word", "gdn_live_second")
    text = welcome.with_demo(_settings(), [Organization(), second], Path("home/demo.json"))
    for shown in ("hanna@quillmoor.example", "open-sesame", "gdn_live_first", "theo@tinderbrook.example",
                  "other-word", "gdn_live_second", "home/demo.json"):  # fmt: skip
        assert shown in text


def test_the_first_command_creates_a_contact() -> None:
    command = _command(welcome.with_demo(_settings(), [Organization()], Path("demo.json")), "/v1/contacts")
    assert command[2] == "http://127.0.0.1:8099/v1/contacts"
    assert "Authorization: Bearer gdn_live_first" in command
    assert json.loads(command[command.index("-d") + 1])["email"] == "ada@example.com"


def test_the_second_command_shows_its_audit_entry() -> None:
    command = _command(welcome.with_demo(_settings(), [Organization()], Path("demo.json")), "/v1/audit")
    assert command[2] == "http://127.0.0.1:8099/v1/audit/events?action=contact.created&limit=1"
    assert "Authorization: Bearer gdn_live_first" in command


def test_it_reads_the_same_in_a_log() -> None:
    text = welcome.with_demo(_settings(), [Organization()], Path("demo.json"))
    assert all(line.isprintable() for line in text.splitlines())
