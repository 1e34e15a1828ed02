"""``guardian events`` on the tables and the log of a real PostgreSQL."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest
from typer.testing import CliRunner

from cli.events import dead, output
from cli.main import app
from deploy.postgres import free_port
from shared.clock import FixedClock
from shared.ids import new_id
from tests.cli.event_platform import CRM, TRACE_ID, EventPlatform, ids, make_event, poisoned
from tests.shared.events.kafka_topics import make_topic


@pytest.fixture
def platform(fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EventPlatform:
    return EventPlatform(fresh_database, tmp_path, monkeypatch)


@pytest.fixture
def letters(platform: EventPlatform) -> UUID:
    """An organisation with one dead letter of each reason; its id."""
    organization, entity = new_id(), new_id()
    platform.append(
        poisoned(organization=organization, subject=entity),
        make_event("contact.updated", organization=organization, subject=entity, sequence=2),
        make_event("contact.created", version=2, organization=organization),
        make_event(organization=new_id()),
    )
    platform.append_unreadable(f"{organization}/{new_id()}")
    platform.consume()
    return organization


def letter(platform: EventPlatform, reason: str) -> int:
    return ids(platform.objects("dead", "--reason", reason))[0]


class TestTail:
    def test_filters(self, platform: EventPlatform) -> None:
        one, subject = new_id(), new_id()
        platform.append(make_event(organization=one), make_event("deal.created", subject=subject), make_event())
        platform.append_unreadable(f"{one}/x")
        assert len(platform.objects("tail", "--no-follow")) == 4
        assert len(platform.objects("tail", "--no-follow", "--since", "1h", "--service", "crm")) == 4
        assert platform.objects("tail", "--no-follow", "--service", "identity") == []
        (made,) = platform.objects("tail", "--no-follow", "--type", "deal.created")
        assert (made["subject"], made["topic"], made["data"]) == (str(subject), CRM, {})
        assert len(platform.objects("tail", "--no-follow", "--subject", str(subject))) == 1
        of_one = platform.objects("tail", "--no-follow", "--organization", str(one))
        assert sorted(each.get("error", "") for each in of_one) == ["", "specversion is None, not '1.0'"]

    def test_what_cannot_be_read_is_shown_with_why(self, platform: EventPlatform) -> None:
        platform.append_unreadable(f"{new_id()}/x")
        line = platform.run("tail", "--no-follow")
        assert "cannot be read" in line
        assert "specversion is None" in line
        assert '{"unreadable": 1}' in line

    def test_bad_input(self, platform: EventPlatform) -> None:
        assert platform.refuses("tail", "--service", "billing") == (
            "'billing' is no service that publishes events; there is: identity, crm, ratelimit"
        )
        assert "is no time" in platform.run("tail", "--since", "tomorrow", status=2)


class TestLag:
    def test_each_group_and_outbox(self, platform: EventPlatform) -> None:
        platform.consume()
        organization = new_id()
        platform.append(*[make_event(organization=organization) for _ in range(3)])
        platform.publish(organization, 2)
        group, identity, crm, _ = platform.objects("lag")
        assert group == {
            "kind": "group", "group": "audit", "service": "audit", "behind": 3, "dead_letters": 0, "parked_keys": 0,
            "members": 0, "bus_error": None, "state": "not running",
        }  # fmt: skip
        assert (identity["service"], identity["unsent"], crm["service"], crm["unsent"]) == ("identity", 0, "crm", 2)
        assert crm["oldest_seconds"] > 0
        (partitioned, *_) = platform.objects("lag", "--group", "audit", "--partitions")
        assert sum(each["behind"] for each in partitioned["partitions"]) == 3
        shown = platform.run("lag", "--partitions")
        assert "not running" in shown
        assert "guardian run audit --role worker" in shown
        assert shown.count(CRM) == len(partitioned["partitions"])
        platform.consume()
        assert "No partition is behind." in platform.run("lag", "--partitions")

    def test_an_unknown_group(self, platform: EventPlatform) -> None:
        assert platform.refuses("lag", "--group", "x") == "there is no consumer group 'x'; there is: audit"


@pytest.mark.parametrize(
    "arguments",
    [
        ["redrive", "--id", "99999999999999999999"],
        ["redrive", "--id", "0"],
        ["dead", "99999999999999999999"],
        ["dead", "--limit", "999999999999999999999"],
        ["outbox", "--list", "--limit", "999999999999999999999"],
    ],
)
def test_a_number_that_can_be_none_is_said_so(platform: EventPlatform, arguments: list[str]) -> None:
    assert "Invalid value" in platform.run(*arguments, status=2)


class TestOutbox:
    def test_what_waits(self, platform: EventPlatform) -> None:
        assert "all events are on the bus" in platform.run("outbox", "--list")
        platform.publish(new_id(), 3)
        assert [(each["service"], each["unsent"]) for each in platform.objects("outbox")] == [
            ("identity", 0),
            ("crm", 3),
            ("ratelimit", 0),
        ]
        assert "crm" in platform.run("outbox", "--service", "crm")
        assert [each["type"] for each in platform.objects("outbox", "--list", "--limit", "2")] == [
            "contact.deleted"
        ] * 2
        assert "2 events of 3" in platform.run("outbox", "--list", "--limit", "2")
        assert "there is: identity, crm" in platform.refuses("outbox", "--service", "audit")
        lines = platform.on_terminal(80, "outbox", "--list")
        for each in platform.objects("outbox", "--list"):
            assert f"  event {each['id']}" in lines
            assert f"  key {each['key']}" in lines


class TestDead:
    def test_there_are_none(self, platform: EventPlatform) -> None:
        assert platform.run("dead") == "There are no dead letters.\n"

    def test_list_and_filters(self, platform: EventPlatform, letters: UUID) -> None:
        found = platform.objects("dead")
        assert sorted(each["reason"] for each in found) == ["failed", "invalid", "parked", "unsupported"]
        assert {each["trace_id"] for each in found if each["event_type"]} == {TRACE_ID}
        assert len(platform.objects("dead", "--organization", str(letters), "--group", "audit")) == 4
        assert platform.objects("dead", "--organization", str(new_id())) == []
        failed = platform.objects("dead", "--reason", "failed")[0]
        assert {each["reason"] for each in platform.objects("dead", "--key", failed["key"])} == {"failed", "parked"}
        assert len(platform.objects("dead", "--limit", "2")) == 2
        shown = platform.run("dead")
        assert "4 of 4 dead letters" in shown
        assert "guardian events redrive --group audit --all" in shown
        assert "no dead letters like that" in platform.run("dead", "--key", "x")
        unreadable = platform.run("dead", "--reason", "invalid")
        assert "--discard" in unreadable
        assert "redrive" not in unreadable
        assert all(f"key {each['key']}\n" in shown for each in found)
        assert "error CharacterNotInRepertoireError(" in shown

    def test_a_narrow_terminal_shows_what_is_needed_to_go_on(self, platform: EventPlatform, letters: UUID) -> None:
        found = platform.objects("dead")
        head, *lines = platform.on_terminal(80, "dead")
        assert head.split("\033")[1].split() == ["[1mID", "REASON", "TRIES", "WHEN", "TYPE"]
        assert [line for line in lines if line.startswith("  key ")] == [f"  key {each['key']}" for each in found]
        assert len([line for line in lines if line.startswith("  error ")]) == 3
        assert all(len(line) <= 80 for line in lines)

    def test_one_in_full(self, platform: EventPlatform, letters: UUID) -> None:
        shown = platform.run("dead", str(letter(platform, "failed")))
        assert "failed: its handler failed" in shown
        assert "invalid byte sequence" in shown
        assert f"trace         {TRACE_ID}" in shown
        assert '"name": "a\\u0000b"' in shown
        assert "1 event of the same key" in shown
        number = letter(platform, "unsupported")
        newer = platform.run("dead", str(number), "--group", "audit")
        assert (
            "contact.created has version 2, and audit reads versions up to 1. Where a newer release of audit" in newer
        )
        assert f"guardian events redrive --group audit --id {number}" in newer
        assert "waits behind another" in platform.run("dead", str(letter(platform, "parked")))
        unreadable = platform.run("dead", str(letter(platform, "invalid")))
        assert '"unreadable": 1' in unreadable
        assert 0 < unreadable.index("--discard") < unreadable.index("guardian events redrive")
        assert "no dead letter has the id 999" in platform.refuses("dead", "999")

    def test_discard_frees_what_waits_behind(self, platform: EventPlatform, letters: UUID) -> None:
        number = letter(platform, "failed")
        assert "add --yes" in platform.refuses("dead", str(number), "--discard")
        assert platform.count("dead_letters") == 4
        said = platform.run("dead", str(number), "--discard", "--yes")
        assert "1 event of its key waits behind it" in said
        assert f"--id {letter(platform, 'parked')}" in said
        assert platform.count("dead_letters") == 3
        assert "say which one" in platform.run("dead", "--discard", status=2)


class TestRedrive:
    @pytest.mark.parametrize(
        "arguments, sentence",
        [
            ((), "say what to handle again: --id ID, --key KEY, or --all of a group"),
            (("--all", "--id", "1"), "say what to handle again: --id ID, --key KEY, or --all of a group"),
            (("--all",), "say whose dead letters with --group; there is: audit"),
            (("--all", "--group", "x"), "there is no consumer group 'x'; there is: audit"),
            (("--id", "999"), "no dead letter has the id 999; 'guardian events dead' lists those there are"),
            (("--id", "999", "--group", "audit"), "no dead letter of audit has the id 999; 'guardian events dead' lists those there are"),
            (("--key", "x", "--group", "audit"), "audit has no dead letters of the key 'x'; 'guardian events dead' lists those there are"),
            (("--all", "--group", "audit"), "audit has no dead letters at all; 'guardian events dead' lists those there are"),
        ],
    )  # fmt: skip
    def test_bad_input(self, platform: EventPlatform, arguments: tuple[str, ...], sentence: str) -> None:
        assert platform.refuses("redrive", *arguments) == sentence

    def test_nobody_picks_it_up(self, platform: EventPlatform, letters: UUID) -> None:
        number = str(letter(platform, "failed"))
        said = platform.run("redrive", "--id", number, "--no-wait")
        assert said == "audit will try 2 events of 1 key again, each key in order.\n"
        said = platform.run("redrive", "--group", "audit", "--all", "--seconds", "0.3", status=1)
        assert "4 events of 3 keys" in said
        assert "4 events not tried within 0.3 s; still asked for. Is audit's worker running?" in said
        assert "has not tried it yet" in platform.run("dead", number)

    @pytest.mark.parametrize(("errors", "last"), [(10, "1 × error 9"), (12, "and 2 other errors of 2 keys: ")])
    def test_no_error_goes_unsaid(self, capsys: pytest.CaptureFixture[str], errors: int, last: str) -> None:
        stopped = [{"id": n, "key": f"k{n}", "error": f"error {n}"} for n in range(errors)]
        dead._print_failures(SimpleNamespace(name="audit"), stopped, errors)  # type: ignore[arg-type]
        assert capsys.readouterr().out.splitlines()[-1].strip().startswith(last)

    def test_one_event_waits(self, capsys: pytest.CaptureFixture[str]) -> None:
        dead._print_failures(SimpleNamespace(name="audit"), [{"id": 1, "key": "k", "error": None}], 1)  # type: ignore[arg-type]
        assert "1 key failed again (1 event still waits). By error:" in capsys.readouterr().out


class TestReplay:
    def test_moving_a_group(self, platform: EventPlatform) -> None:
        platform.append(*[make_event() for _ in range(5)])
        platform.consume()
        question = platform.refuses("replay", "--group", "audit", "--from", "earliest")
        assert "It will read 5 events again. Effects it has had are not repeated" in question
        assert "5 events before it" in platform.run("replay", "--group", "audit", "--from", "1h", "--yes")
        assert platform.objects("lag")[0]["behind"] == 5
        platform.consume()
        assert platform.count("inbox") == 5
        (moved,) = platform.objects("replay", "--group", "audit", "--from", "earliest", "--yes")
        assert moved["events"] == 5
        assert "Skip 5 events that audit has not seen?" in platform.refuses(
            "replay", "--group", "audit", "--from", "latest"
        )

    def test_a_rehearsal_moves_and_keeps_nothing(self, platform: EventPlatform) -> None:
        organization = new_id()
        platform.append(
            make_event(organization=organization), poisoned(organization=organization), make_event(),
            make_event("contact.created", version=7),
        )  # fmt: skip
        dry = ("replay", "--group", "audit", "--from", "earliest", "--dry-run")
        said = platform.run(*dry, status=1)
        assert "4 events rehearsed: 2 ok, 2 would fail. Nothing was kept or moved." in said
        assert "invalid byte sequence" in said
        assert "contact.created has version 7" in said
        assert "2 ok, 0 would fail" in platform.run(*dry, "--type", "contact.deleted")
        assert "1 event rehearsed" in platform.run(*dry, "--type", "contact.deleted", "--limit", "1")
        results = platform.objects(*dry, "--organization", str(organization), status=1)
        assert sorted(each["ok"] for each in results) == [False, True]
        for table in ("inbox", "dead_letters", "audit_logs_enhanced_search"):
            assert platform.count(table) == 0
        platform.consume()
        assert platform.count("inbox") == 4

    def test_bad_input(self, platform: EventPlatform) -> None:
        assert "'soon' is no time" in platform.refuses("replay", "--group", "audit", "--from", "soon")
        assert "there is: audit" in platform.refuses("replay", "--group", "crm", "--from", "1h")
        said = platform.run("replay", "--group", "audit", "--from", "1h", "--type", "contact.created", status=2)
        assert "--dry-run only" in said


@pytest.mark.parametrize("command", ["tail --no-follow", "lag", "outbox", "dead", "redrive --group audit --all"])
def test_a_database_that_is_away_or_not_ours_is_a_sentence(
    platform: EventPlatform, empty_database: str, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://a:b@127.0.0.1:1/x")
    assert "the database cannot be reached" in platform.refuses(*command.split())
    monkeypatch.setenv("DATABASE_URL", empty_database)
    assert "guardian migrate" in platform.refuses(*command.split())


def test_a_broker_that_is_away(platform: EventPlatform, letters: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    platform.publish(letters, 2)
    servers = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", servers)
    group, _, crm, _ = platform.objects("lag", status=1)
    assert (group["behind"], group["state"], group["dead_letters"]) == (None, "waits for the bus", 4)
    assert (crm["unsent"], servers in group["bus_error"]) == (2, True)
    shown = platform.run("lag", "--partitions", status=1)
    assert shown.splitlines()[1].split() == ["audit", "unknown", "waits", "for", "the", "bus", "4", "3"]
    assert "No partition is behind" not in shown
    for said in (
        shown,
        platform.run("tail", status=1),
        platform.run("replay", "--group", "audit", "--from", "1h", status=1),
    ):
        assert f"guardian: Kafka at {servers} cannot be reached" in said
        assert "Nothing is lost: events wait in the outboxes (guardian events outbox)" in said
        assert "KAFKA_BOOTSTRAP_SERVERS" in said
    assert platform.objects("outbox")[1]["unsent"] == 2


def test_a_topic_that_somebody_made(
    platform: EventPlatform, kafka_servers: str, kafka_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka_servers)
    monkeypatch.setenv("KAFKA_PREFIX", kafka_prefix)
    asyncio.run(make_topic(kafka_servers, f"{kafka_prefix}.crm.events", 3))
    assert platform.objects("lag", status=1)[0]["behind"] is None
    for command in (
        "tail --no-follow",
        "replay --group audit --from 1h --yes",
        "replay --group audit --from 1h --dry-run",
    ):
        said = platform.refuses(*command.split())
        assert f"The Kafka topic {kafka_prefix}.crm.events has 3 partitions" in said
        assert "stop it, remove .guardian/kafka with all its events, start it again" in said
        assert "go on by themselves once that is done." in said


def test_nothing_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDIAN_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["events", "lag"])
    assert result.exit_code == 1
    assert "no platform is running" in result.output


def test_the_help_names_every_command() -> None:
    text = CliRunner().invoke(app, ["events", "--help"]).output
    assert all(f" {name} " in text for name in ("tail", "lag", "outbox", "dead", "redrive", "replay"))


def test_times_and_how_long_ago(frozen_clock: FixedClock) -> None:
    now = datetime(2026, 1, 15, 12, tzinfo=UTC)
    assert output.moment("1h30m") == now - timedelta(minutes=90)
    assert output.moment("1.5d") == now - timedelta(hours=36)
    assert output.moment("2026-01-01") == datetime(2026, 1, 1, tzinfo=UTC)
    assert output.moment("2026-01-01T01:00:00+01:00") == datetime(2026, 1, 1, tzinfo=UTC)
    for text in ("", "soon", "5", "5w", "2026-13-01", "2027-01-01", "99999999999d"):
        with pytest.raises(ValueError, match=r"is no time|in the future|than there are dates"):
            output.moment(text)
    spans = {0: "0.0 s", 9.94: "9.9 s", 59: "59 s", 60: "1 min", 3599: "59 min 59 s", 7200: "2 h", 90_000: "1 d 1 h"}
    assert {seconds: output.span(seconds) for seconds in spans} == spans
    assert output.ago(now + timedelta(hours=1)) == "0.0 s ago"


def test_a_terminal_cuts_the_last_column(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["1", "x" * 200], ["20", "y"]]
    assert output.table([">ID", "ERROR"], rows).splitlines() == ["ID  ERROR", f" 1  {'x' * 200}", "20  y"]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    head, first, _ = output.table([">ID", "ERROR"], rows).splitlines()
    assert head == "\033[1mID  ERROR\033[0m"
    assert first == f" 1  {'x' * 35}…"
