"""``guardian events replay``: move a group back, or rehearse its handler on what the log holds."""

from collections.abc import AsyncIterator, Sequence
from itertools import groupby
from uuid import UUID

from cli.events.connections import CannotAnswer, Group, Platform
from cli.events.dead import confirm
from cli.events.output import local, many, moment, print_json
from cli.events.tail import as_object, line
from shared.events.bus import Moment, Received
from shared.events.watch import replay as move
from shared.events.watch import tail as watch

_MOST_COUNTED = 100_000
_RUN = 100


def place(text: str) -> Moment:
    """``earliest``, ``latest``, a time, or how long ago; raises ``CannotAnswer``."""
    if text == "earliest":
        return "earliest"
    if text == "latest":
        return "latest"
    try:
        return moment(text)
    except ValueError as error:
        raise CannotAnswer(f"--from: {error}; or 'earliest', or 'latest'") from None


def _named(since: Moment) -> str:
    names = {"earliest": "from the oldest event the log keeps", "latest": "to the end of the log"}
    return names[since] if isinstance(since, str) else f"from {local(since)}"


async def replay(platform: Platform, *, group: str, since: Moment, yes: bool, as_json: bool) -> int:
    """Move a group, once somebody says so."""
    owner = await platform.group(group)
    if since == "latest":
        behind = sum((await owner.bus.lag(group)).values())
        question = f"Skip {many(behind, 'event')} that {group} has not seen? It will never handle them."
    else:
        count = await _count(owner, since)
        question = (
            f"Move {group} {_named(since)}? It will read {count} again. Effects it has had are not repeated: its "
            "inbox knows them."
        )
    confirm(question, yes=yes)
    ahead = await move(owner.bus, group, owner.consumer.topics, since)
    if as_json:
        print_json({"group": group, "from": since, "events": ahead})
    else:
        print(f"{group} was moved {_named(since)}: {many(ahead, 'event')} before it. Watch it with:")
        print(f"  guardian events lag --group {group} --watch")
    return 0


async def _count(owner: Group, since: Moment) -> str:
    count = 0
    async for _ in owner.bus.read(owner.consumer.topics, since, follow=False):
        count += 1
        if count == _MOST_COUNTED:
            return f"{count:,} events or more"
    return many(count, "event")


async def rehearse(
    platform: Platform,
    *,
    group: str,
    since: Moment,
    types: Sequence[str],
    organization_id: UUID | None,
    subject: UUID | None,
    limit: int,
    as_json: bool,
) -> int:
    """Run a group's handler on events of the log and roll everything back; 1 when any would fail."""
    owner = await platform.group(group)
    entries = watch(
        owner.bus,
        owner.consumer.topics,
        since=since,
        follow=False,
        types=types,
        organization_id=organization_id,
        subject=subject,
    )
    good = bad = 0
    async for run in _runs(entries, limit):
        for entry, error in zip(run, await owner.consumer.rehearse(run), strict=True):
            good, bad = (good + 1, bad) if error is None else (good, bad + 1)
            if as_json:
                print_json({"ok": error is None, "error": error, **as_object(entry)})
            elif error is None:
                print(f"ok      {line(entry)}", flush=True)
            else:
                print(f"FAILED  {line(entry)}\n        {error}", flush=True)
    if not as_json:
        print(f"{many(good + bad, 'event')} rehearsed: {good:,} ok, {bad:,} would fail. Nothing was kept or moved.")
    return 1 if bad else 0


async def _runs(entries: AsyncIterator[Received], limit: int) -> AsyncIterator[list[Received]]:
    """Events of one organisation at a time, each one's in order, as its consumer gets them."""
    batch: list[Received] = []
    async for entry in entries:
        batch.append(entry)
        limit -= 1
        if limit <= 0:
            break
        if len(batch) == _RUN:
            for run in _by_organization(batch):
                yield run
            batch = []
    for run in _by_organization(batch):
        yield run


def _by_organization(batch: Sequence[Received]) -> list[list[Received]]:
    ordered = sorted(batch, key=lambda each: each.organization_id)
    return [list(run) for _, run in groupby(ordered, key=lambda each: each.organization_id)]
