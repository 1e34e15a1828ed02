"""``guardian events lag`` and ``outbox``: how far behind everybody is, from outbox to effect."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from cli.events.connections import CannotAnswer, Group, Platform, sentence
from cli.events.output import NOTHING, ago, many, print_json, span, table
from shared.events import Relay, deadletters
from shared.events.bus import BusAway, WrongSetup
from shared.events.postgres import PostgresBus

_WATCH_SECONDS = 2.0
_MEMBERS = "SELECT count(*) FROM bus.member WHERE consumer_group = $1 AND lease_until > clock_timestamp()"
_UNSENT = "SELECT seq, id, type, key, created_at FROM outbox ORDER BY seq LIMIT $1"


@dataclass(frozen=True, slots=True)
class GroupLag:
    """How one consumer group is doing, as its service's tables and the bus tell it."""

    group: str
    service: str
    behind: int | None
    """Events it has not handled; None where the bus cannot be asked."""
    partitions: list[tuple[str, int, int]]
    dead_letters: int
    parked_keys: int
    members: int | None
    """Processes that consume; None where the bus does not say."""
    bus_error: str | None = None

    @property
    def state(self) -> Literal["waits for the bus", "not running", "behind", "up to date"]:
        """In a word."""
        if self.behind is None:
            return "waits for the bus"
        if self.members == 0:
            return "not running"
        return "behind" if self.behind else "up to date"


@dataclass(frozen=True, slots=True)
class Outbox:
    """Events of one service that are committed and not yet on the bus."""

    service: str
    unsent: int
    oldest_seconds: float


async def measure(group: Group) -> GroupLag:
    """One group, now: of a bus that cannot be asked what the database knows."""
    dead, parked = await deadletters.counts(group.database, group.name)
    try:
        waiting = await group.bus.lag(group.name)
        await group.bus.check(group.consumer.topics)
    except (BusAway, WrongSetup) as error:
        return GroupLag(group.name, group.service, None, [], dead, parked, None, sentence(error))
    members: int | None = None
    if isinstance(group.bus, PostgresBus):
        members = await group.database.pool.fetchval(_MEMBERS, group.name)
    partitions = sorted((topic, number, count) for (topic, number), count in waiting.items())
    return GroupLag(group.name, group.service, sum(waiting.values()), partitions, dead, parked, members)


async def outboxes(platform: Platform, services: Sequence[str] = ()) -> list[Outbox]:
    """The outbox of every service that publishes, or of the named ones; raises ``CannotAnswer``."""
    relays: dict[str, Relay] = {name: each.relay for name, each in platform.workers.items() if each.relay}
    for name in services:
        if name not in relays:
            raise CannotAnswer(f"{name!r} is no service with an outbox; there is: {', '.join(relays)}")
    return [
        Outbox(name, await relay.unsent(), await relay.oldest_unsent_seconds())
        for name, relay in relays.items()
        if not services or name in services
    ]


async def lag(platform: Platform, *, group: str | None, partitions: bool, watch: bool, as_json: bool) -> int:
    """Print how far behind each group is, once or until interrupted."""
    groups = [await platform.group(group)] if group else await platform.groups()

    async def look() -> tuple[list[GroupLag], list[Outbox]]:
        return [await measure(each) for each in groups], await outboxes(platform)

    while True:
        found, boxes = await look()
        if as_json:
            _print_json(found, boxes, partitions=partitions)
        else:
            clear = "\033[H\033[2J" if watch and sys.stdout.isatty() else ""
            print(clear + "\n".join(_render(found, boxes, partitions=partitions)), flush=True)
        errors = list(dict.fromkeys(each.bus_error for each in found if each.bus_error))
        if errors and not as_json:
            print("", *(f"guardian: {error}" for error in errors), sep="\n", file=sys.stderr)
        if not watch:
            return 1 if errors else 0
        await asyncio.sleep(_WATCH_SECONDS)


def _print_json(found: Sequence[GroupLag], boxes: Sequence[Outbox], *, partitions: bool) -> None:
    for each in found:
        values: dict[str, Any] = {"kind": "group", **asdict(each), "state": each.state}
        if partitions:
            values["partitions"] = [{"topic": t, "partition": n, "behind": c} for t, n, c in each.partitions]
        else:
            del values["partitions"]
        print_json(values)
    for box in boxes:
        print_json({"kind": "outbox", **asdict(box)})


def _render(found: Sequence[GroupLag], boxes: Sequence[Outbox], *, partitions: bool) -> list[str]:
    behind = {each.group: "unknown" if each.behind is None else f"{each.behind:,}" for each in found}
    rows = [[e.group, behind[e.group], e.state, f"{e.dead_letters:,}", f"{e.parked_keys:,}"] for e in found]
    made = [table(["GROUP", ">EVENTS BEHIND", "STATE", ">DEAD LETTERS", ">PARKED KEYS"], rows), ""]
    if partitions:
        places = [[e.group, t, f"{n}", f"{c:,}"] for e in found for t, n, c in e.partitions]
        listed = table(["GROUP", "TOPIC", ">PARTITION", ">EVENTS BEHIND"], places)
        if places or not any(each.bus_error for each in found):
            made += [listed if places else "No partition is behind.", ""]
    made.append(_outbox_table(boxes))
    hints = [f"guardian events dead --group {e.group}   # what failed" for e in found if e.dead_letters]
    hints += [f"guardian run {e.service} --role worker   # consumes, as 'guardian up' does" for e in found
              if e.state == "not running"]  # fmt: skip
    return made + (["", *hints] if hints else [])


def _outbox_table(boxes: Sequence[Outbox]) -> str:
    rows = [[box.service, f"{box.unsent:,}", span(box.oldest_seconds) if box.unsent else NOTHING] for box in boxes]
    return table(["OUTBOX OF", ">UNSENT", ">OLDEST"], rows)


async def outbox(platform: Platform, *, services: Sequence[str], listed: bool, limit: int, as_json: bool) -> int:
    """Print what waits in the outboxes."""
    boxes = await outboxes(platform, services)
    if not listed:
        if as_json:
            for box in boxes:
                print_json(asdict(box))
        else:
            print(_outbox_table(boxes))
        return 0
    rows = [(box, row) for box in boxes for row in await platform.databases[box.service].pool.fetch(_UNSENT, limit)]
    if as_json:
        for box, row in rows:
            print_json({"service": box.service, **dict(row)})
        return 0
    if not rows:
        print("Every outbox is empty: all events are on the bus.")
        return 0
    lines = [[box.service, f"{row['seq']}", ago(_time(row)), row["type"]] for box, row in rows]
    below = [[f"event {row['id']}", f"key {row['key']}"] for _, row in rows]
    print(table(["SERVICE", ">SEQ", ">WRITTEN", "TYPE"], lines, below))
    unsent = sum(box.unsent for box in boxes)
    if unsent > len(rows):
        print(f"\n{many(len(rows), 'event')} of {unsent:,}; --limit shows more of each service.")
    return 0


def _time(row: Any) -> datetime:
    found: datetime = row["created_at"]
    return found
