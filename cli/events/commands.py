"""The commands of ``guardian events``; each imports what it needs when it runs."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

if TYPE_CHECKING:
    from cli.events.connections import Platform

events = typer.Typer(
    help="Look at events: what happens, who is behind, what failed; and have it handled again.\n\n"
    "Every command finds the platform of GUARDIAN_HOME by itself, or that of DATABASE_URL.",
    no_args_is_help=True,
)
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Types = Annotated[
    list[str] | None, typer.Option("--type", help="Only this type, such as contact.created; may be repeated.")
]
Organization = Annotated[UUID | None, typer.Option(help="Only this organisation.")]
Subject = Annotated[UUID | None, typer.Option(help="Only this record.")]
Services = Annotated[list[str] | None, typer.Option("--service", help="Only this service; may be repeated.")]
MOST_LISTED = 100_000
LARGEST_ID = 2**63 - 1
OneGroup = Annotated[str | None, typer.Option("--group", help="Only this consumer group, such as audit.")]


class ReasonName(StrEnum):
    """Why an event is a dead letter."""

    FAILED = "failed"
    INVALID = "invalid"
    PARKED = "parked"
    UNSUPPORTED = "unsupported"


def _answer(work: "Callable[[Platform], Awaitable[int]]") -> None:
    from cli.events.connections import answer

    status = answer(work)
    if status:
        raise typer.Exit(status)


@events.command()
def tail(
    *,
    service: Services = None,
    event_type: Types = None,
    organization: Organization = None,
    subject: Subject = None,
    since: Annotated[
        str | None, typer.Option(help="Begin at a time (2026-01-31T12:00:00Z), or that long ago (90s, 10m, 2h, 1d).")
    ] = None,
    follow: Annotated[bool, typer.Option(help="Wait for more.")] = True,
    as_json: Json = False,
) -> None:
    """Print events as they happen, until Ctrl-C; with --no-follow, those of the log."""
    from cli.events import tail as command
    from cli.events.output import moment

    try:
        begin = None if since is None else moment(since)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from None
    _answer(
        lambda platform: command.tail(
            platform,
            services=service or [],
            types=event_type or [],
            organization_id=organization,
            subject=subject,
            since=begin,
            follow=follow,
            as_json=as_json,
        )
    )


@events.command()
def lag(
    *,
    group: OneGroup = None,
    partitions: Annotated[bool, typer.Option("--partitions", help="Say which partitions are behind.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every two seconds, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """How far each consumer group is behind, and what waits in the outboxes."""
    from cli.events import lag as command

    _answer(lambda platform: command.lag(platform, group=group, partitions=partitions, watch=watch, as_json=as_json))


@events.command()
def outbox(
    *,
    service: Services = None,
    listed: Annotated[bool, typer.Option("--list", help="Name the events, oldest first.")] = False,
    limit: Annotated[
        int, typer.Option(min=1, max=MOST_LISTED, help="With --list: at most so many of each service.")
    ] = 50,
    as_json: Json = False,
) -> None:
    """Events that are committed and not yet on the bus."""
    from cli.events import lag as command

    _answer(
        lambda platform: command.outbox(platform, services=service or [], listed=listed, limit=limit, as_json=as_json)
    )


@events.command()
def dead(
    number: Annotated[
        int | None, typer.Argument(metavar="ID", min=1, max=LARGEST_ID, help="Show this one in full.")
    ] = None,
    *,
    group: OneGroup = None,
    key: Annotated[str | None, typer.Option(help="Only this key (organisation/record).")] = None,
    organization: Organization = None,
    reason: Annotated[ReasonName | None, typer.Option(help="Only those with this reason.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST_LISTED, help="At most so many of each group.")] = 50,
    discard: Annotated[bool, typer.Option("--discard", help="Drop the one with this ID for good.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """What failed for good, and what waits behind it."""
    from cli.events import dead as command

    if number is None:
        if discard:
            raise typer.BadParameter("say which one: guardian events dead ID --discard", param_hint="--discard")
        _answer(
            lambda platform: command.listed(
                platform,
                group=group,
                key=key,
                organization_id=organization,
                reason=reason.value if reason else None,
                limit=limit,
                as_json=as_json,
            )
        )
    elif discard:
        _answer(lambda platform: command.discarded(platform, number, group=group, yes=yes))
    else:
        _answer(lambda platform: command.shown(platform, number, group=group, as_json=as_json))


@events.command()
def redrive(
    *,
    group: Annotated[str | None, typer.Option(help="Whose dead letters; an --id finds it alone.")] = None,
    number: Annotated[
        int | None, typer.Option("--id", min=1, max=LARGEST_ID, help="The key of this dead letter.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="This key (organisation/record).")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every key.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait for the outcome.")] = True,
    seconds: Annotated[float, typer.Option(min=0, help="How long to wait.")] = 30.0,
    as_json: Json = False,
) -> None:
    """Have dead letters handled again, each key in order up to its first failure."""
    from cli.events import dead as command

    _answer(
        lambda platform: command.redrive(
            platform,
            group=group,
            key=key,
            number=number,
            everything=everything,
            wait=seconds if wait else 0.0,
            as_json=as_json,
        )
    )


@events.command()
def replay(
    *,
    group: Annotated[str, typer.Option(help="Which consumer group, such as audit.")],
    since: Annotated[str, typer.Option("--from", help="earliest, latest, a time, or how long ago (90s, 10m, 2h, 1d).")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only rehearse: run its handler, roll back, move nothing.")
    ] = False,
    event_type: Types = None,
    organization: Organization = None,
    subject: Subject = None,
    limit: Annotated[int, typer.Option(min=1, help="With --dry-run: at most so many events.")] = 1000,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Move a consumer group back, so that it reads events again; or rehearse its handler on them."""
    from cli.events import replay as command

    filters = {"--type": event_type, "--organization": organization, "--subject": subject}
    if not dry_run and any(filters.values()):
        names = ", ".join(name for name, value in filters.items() if value)
        raise typer.BadParameter("a group is moved as a whole; it goes with --dry-run only", param_hint=names)
    _answer(
        lambda platform: (
            command.rehearse(
                platform,
                group=group,
                since=command.place(since),
                types=event_type or [],
                organization_id=organization,
                subject=subject,
                limit=limit,
                as_json=as_json,
            )
            if dry_run
            else command.replay(platform, group=group, since=command.place(since), yes=yes, as_json=as_json)
        )
    )
