"""``guardian events dead`` and ``redrive``: what failed, why, and having it handled again."""

import asyncio
import base64
import contextlib
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
import typer

from cli.events.connections import CannotAnswer, Group, Platform
from cli.events.output import NOTHING, ago, fitting, local, many, print_json, printable, table
from shared.events import deadletters
from shared.events.deadletters import DeadLetter, Reason, redrive_signal
from shared.events.wakeups import CHANNEL

_SHOWN_BODY = 8000
_SHOWN_ERRORS = 10
_LOOK_SECONDS = 0.25
# What a redrive is about: everything of the keys it names.
_MATCHING = """
SELECT id, key FROM dead_letters WHERE consumer = $1 AND ($2::text IS NULL OR key = $2)
  AND ($3::bigint IS NULL OR key = (SELECT key FROM dead_letters WHERE consumer = $1 AND id = $3))
"""
_LEFT = """
SELECT count(*) AS letters, count(DISTINCT key) AS keys, count(*) FILTER (WHERE requested_at IS NOT NULL) AS waiting
FROM dead_letters WHERE consumer = $1 AND id = ANY ($2::bigint[])
"""
_FAILED = """
SELECT DISTINCT ON (key) id, key, event_type, error FROM dead_letters
WHERE consumer = $1 AND key = ANY ($2::text[]) ORDER BY key, id
"""
MEANINGS: dict[Reason, str] = {
    "failed": "its handler failed",
    "invalid": "it cannot be read, whatever is tried",
    "parked": "it waits behind another of its key",
    "unsupported": "this release of its consumer does not know its type or version",
}


async def listed(
    platform: Platform,
    *,
    group: str | None,
    key: str | None,
    organization_id: UUID | None,
    reason: Reason | None,
    limit: int,
    as_json: bool,
) -> int:
    """Print the dead letters that match, oldest first."""
    groups = [await platform.group(group)] if group else await platform.groups()
    found: list[DeadLetter] = []
    for each in groups:
        found += await deadletters.dead(
            each.database, each.name, key=key, organization_id=organization_id, reason=reason, limit=limit
        )
    if as_json:
        for letter in found:
            print_json(as_object(letter))
        return 0
    if not found:
        print("There are no dead letters" + (" like that." if group or key or organization_id or reason else "."))
        return 0
    rows = [_row(letter, several=len(groups) > 1) for letter in found]
    columns = ["GROUP"] * (len(groups) > 1) + [">ID", "REASON", ">TRIES", ">WHEN", "TYPE"]
    print(table(columns, rows, [_below(letter) for letter in found]))
    total = sum([await deadletters.count(each.database, each.name) for each in groups])
    name = group or found[0].consumer
    one = f"  guardian events dead {found[0].id} --group {found[0].consumer}"
    if all(letter.reason == "invalid" for letter in found):  # another try reads the same bytes
        ways = ["One in full; dropped for good:", one, f"{one} --discard"]
    else:
        again = f"  guardian events redrive --group {name}"
        ways = ["One in full; a key again, once its error is mended; all:", one, f"{again} --key KEY", f"{again} --all"]
    print(f"\n{len(found):,} of {many(total, 'dead letter')}.", "\n".join(ways))
    return 0


def _row(letter: DeadLetter, *, several: bool) -> list[str]:
    cells = [str(letter.id), letter.reason, str(letter.attempts), ago(letter.created_at), letter.event_type or NOTHING]
    return [letter.consumer] * several + cells


def _below(letter: DeadLetter) -> list[str]:
    error = [] if letter.reason == "parked" else [fitting(f"error {letter.error or NOTHING}")]
    return [f"key {printable(letter.key)}", *error]


def as_object(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter for a program; the body as it is, whatever it is."""
    names = [name for name in DeadLetter.__slots__ if name != "body"]
    values: dict[str, Any] = {name: getattr(letter, name) for name in names}
    try:
        return {**values, "event": orjson.loads(letter.body)}
    except orjson.JSONDecodeError:
        return {**values, "body_base64": base64.b64encode(letter.body).decode()}


async def find(platform: Platform, number: int, group: str | None) -> tuple[Group, DeadLetter]:
    """The dead letter with an id, in a group or wherever it is; raises ``CannotAnswer``."""
    groups = [await platform.group(group)] if group else await platform.groups()
    found = [
        (each, letter)
        for each in groups
        for letter in await deadletters.dead(each.database, each.name, after=number - 1, limit=1)
        if letter.id == number
    ]
    if not found:
        where = f"of {group} " if group else ""
        raise CannotAnswer(f"no dead letter {where}has the id {number}; 'guardian events dead' lists those there are")
    if len(found) > 1:
        names = ", ".join(each.name for each, _ in found)
        raise CannotAnswer(f"the id {number} is one of several groups ({names}): say which with --group")
    return found[0]


async def shown(platform: Platform, number: int, *, group: str | None, as_json: bool) -> int:
    """Print one dead letter in full."""
    owner, letter = await find(platform, number, group)
    if as_json:
        print_json(as_object(letter))
        return 0
    behind = len([each for each in await _same_key(owner, letter) if each > letter.id])
    first = min(await _same_key(owner, letter))
    facts = {
        "id": f"{letter.id}",
        "group": letter.consumer,
        "reason": f"{letter.reason}: {MEANINGS[letter.reason]}",
        "error": letter.error or NOTHING,
        "attempts": f"{letter.attempts}",
        "type": letter.event_type or NOTHING,
        "key": letter.key,
        "organization": str(letter.organization_id),
        "position": f"{letter.topic}, partition {letter.partition}, position {letter.position}",
        "trace": letter.trace_id or NOTHING,
        "since": f"{local(letter.created_at)} ({ago(letter.created_at)})",
        "behind it": many(behind, "event") + " of the same key",
    }
    if letter.requested_at:
        facts["asked for"] = f"{ago(letter.requested_at)}; {owner.service}'s worker has not tried it yet"
    for name, value in facts.items():
        print(f"{name:<13} {value}")
    print("\n" + _pretty(letter.body))
    again = f"Have it handled again:  guardian events redrive --group {letter.consumer} --id {letter.id}"
    drop = f"Drop it for good:       guardian events dead {letter.id} --group {letter.consumer} --discard"
    ways = [again, drop]
    if letter.reason == "invalid":  # another try reads the same bytes; a newer release may read them
        ways = [drop, again]
    elif letter.reason == "parked":
        ways = [f"It waits behind:        guardian events dead {first} --group {letter.consumer}", *ways]
    print("", *ways, sep="\n")
    return 0


async def _same_key(owner: Group, letter: DeadLetter) -> list[int]:
    return [row["id"] for row in await owner.database.pool.fetch(_MATCHING, owner.name, letter.key, None)]


def _pretty(body: bytes) -> str:
    try:
        text = orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2).decode()
    except orjson.JSONDecodeError:
        text = body.decode(errors="backslashreplace")
    text = "".join(each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in text[: _SHOWN_BODY + 1])
    if len(text) <= _SHOWN_BODY:
        return text
    return f"{text[:_SHOWN_BODY]}…\n({len(body):,} bytes in all; --json gives the whole)"


async def discarded(platform: Platform, number: int, *, group: str | None, yes: bool) -> int:
    """Drop one dead letter for good, once somebody says so."""
    owner, letter = await find(platform, number, group)
    what = f"{letter.event_type or 'entry'} at {letter.topic}/{letter.partition}@{letter.position}"
    confirm(f"Drop dead letter {number} ({what}) for good? {owner.name} will never handle it.", yes=yes)
    await deadletters.discard(owner.database, owner.name, number)
    left = await _same_key(owner, letter)
    print(f"Dropped. {many(len(left), 'event')} of its key " + ("waits" if len(left) == 1 else "wait") + " behind it.")
    if left:
        print(f"Have the rest handled:  guardian events redrive --group {owner.name} --id {min(left)}")
    return 0


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone; raises ``CannotAnswer`` for a no, and where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CannotAnswer(f"{question} Nobody is here to ask: add --yes to do it.")
    with contextlib.suppress(typer.Abort):
        if typer.confirm(question):
            return
    raise CannotAnswer("nothing was changed")


async def redrive(
    platform: Platform,
    *,
    group: str | None,
    key: str | None,
    number: int | None,
    everything: bool,
    wait: float,
    as_json: bool,
) -> int:
    """Ask a group to handle dead letters again, and say what came of it."""
    if sum((key is not None, number is not None, everything)) != 1:
        raise CannotAnswer("say what to handle again: --id ID, --key KEY, or --all of a group")
    if number is not None:
        owner, _ = await find(platform, number, group)
    elif group is None:
        names = ", ".join(each.name for each in await platform.groups())
        raise CannotAnswer(f"say whose dead letters with --group; there is: {names}")
    else:
        owner = await platform.group(group)
    rows = await owner.database.pool.fetch(_MATCHING, owner.name, key, number)
    if not rows:
        what = f"of the key {key!r}" if key else "at all"
        raise CannotAnswer(f"{owner.name} has no dead letters {what}; 'guardian events dead' lists those there are")
    ids, keys = [row["id"] for row in rows], sorted({row["key"] for row in rows})
    await deadletters.redrive(owner.database, owner.name, key=key, id=number)
    await owner.database.pool.execute("SELECT pg_notify($1, $2)", CHANNEL, redrive_signal(owner.name))
    if not as_json:
        print(f"{owner.name} will try {many(len(ids), 'event')} of {many(len(keys), 'key')} again, each key in order.")
    if wait <= 0:
        if as_json:
            print_json({"group": owner.name, "events": len(ids), "keys": len(keys)})
        return 0
    return await _outcome(owner, ids, keys, wait, as_json=as_json)


async def _outcome(owner: Group, ids: Sequence[int], keys: Sequence[str], wait: float, *, as_json: bool) -> int:
    deadline = asyncio.get_running_loop().time() + wait
    while True:
        left = await owner.database.pool.fetchrow(_LEFT, owner.name, ids)
        assert left is not None, "an aggregate has one row"
        if not left["waiting"] or asyncio.get_running_loop().time() >= deadline:
            break
        await asyncio.sleep(_LOOK_SECONDS)
    handled, waiting, failed = len(ids) - left["letters"], left["waiting"], left["letters"] - left["waiting"]
    stopped = await owner.database.pool.fetch(_FAILED, owner.name, keys) if failed else []
    if as_json:
        print_json({
            "group": owner.name, "events": len(ids), "keys": len(keys), "handled": handled, "waiting": waiting,
            "failed": [{"id": r["id"], "key": r["key"], "error": r["error"]} for r in stopped],
        })  # fmt: skip
        return 0 if handled == len(ids) else 1
    print(f"{many(handled, 'event')} handled.")
    if waiting:
        print(
            f"{many(waiting, 'event')} not tried within {wait:g} s; still asked for. "
            f"Is {owner.service}'s worker running? 'guardian events lag' tells how it is doing."
        )
    if stopped:
        _print_failures(owner, stopped, failed)
    return 0 if handled == len(ids) else 1


def _print_failures(owner: Group, stopped: Sequence[Any], failed: int) -> None:
    wait = "waits" if failed == 1 else "wait"
    print(f"{many(len(stopped), 'key')} failed again ({many(failed, 'event')} still {wait}). By error:")
    errors = Counter(" ".join((row["error"] or "?").split()) for row in stopped)
    for error, count in errors.most_common(_SHOWN_ERRORS):
        first = next(row["id"] for row in stopped if " ".join((row["error"] or "?").split()) == error)
        print(f"  {count:,} × {error[:300]}   (guardian events dead {first} --group {owner.name})")
    more = errors.most_common()[_SHOWN_ERRORS:]
    if more:
        print(
            f"  and {many(len(more), 'other error')} of {many(sum(count for _, count in more), 'key')}: "
            f"guardian events dead --group {owner.name}"
        )
