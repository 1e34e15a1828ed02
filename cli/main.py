"""The command line. A command imports what it needs when it runs, so that ``guardian --help`` is instant."""

import sys
from datetime import timedelta
from typing import Annotated
from uuid import UUID

import typer

app = typer.Typer(
    name="guardian",
    help="The platform in one command line.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _guardian() -> None:
    """Makes typer keep the commands' names however many there are."""


@app.command()
def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what this machine lacks, and the command that mends it. Ends with 1 when something needed is missing."""
    from cli.doctor import examine, render, render_json
    from cli.home import InvalidSettings, load_settings

    try:
        settings = load_settings()
    except InvalidSettings as error:
        print(f"guardian: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    findings = examine(settings)
    print(render_json(findings) if as_json else render(findings))
    if any(finding.stops for finding in findings):
        raise typer.Exit(1)


@app.command()
def up() -> None:
    """Start the whole platform in one process, with its own PostgreSQL unless DATABASE_URL is set."""
    from cli.home import InvalidSettings, load_settings
    from cli.up import CannotStart
    from cli.up import up as run

    try:
        run(load_settings())
    except (CannotStart, InvalidSettings) as error:
        print(f"guardian cannot start: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command()
def migrate(
    *, check: Annotated[bool, typer.Option("--check", help="Only say which schemas are behind; ends with 1.")] = False
) -> None:
    """Bring every schema to its newest version."""
    from cli.migrate import command

    if not command(check=check, say=print):
        raise typer.Exit(1)


@app.command()
def contracts(
    *,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; ends with 1 when files have drifted.")] = False,
) -> None:
    """Write the OpenAPI, AsyncAPI and event schema files under openapi/ from the code."""
    from cli.contracts import drift, write

    changed = drift() if check else write()
    for path in changed:
        print(f"{'drifted' if check else 'written'}: openapi/{path}")
    if not changed:
        print("openapi/ says what the code says.")
    if check and changed:
        print("Run 'make contracts' and commit the result.", file=sys.stderr)
        raise typer.Exit(1)


events = typer.Typer(help="Look at what happened.", no_args_is_help=True)
app.add_typer(events, name="events")


@events.callback()
def _events() -> None:
    """Makes typer keep the command's name however many there are."""


@events.command("tail")
def events_tail(
    *,
    event_type: Annotated[
        list[str] | None, typer.Option("--type", help="Only this type, such as contact.created.")
    ] = None,
    organization: Annotated[UUID | None, typer.Option(help="Only this organisation.")] = None,
    subject: Annotated[UUID | None, typer.Option(help="Only this entity.")] = None,
    since_minutes: Annotated[float | None, typer.Option("--since-minutes", help="Begin that long ago.")] = None,
    follow: Annotated[bool, typer.Option(help="Wait for more.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print events as they happen, until Ctrl-C. Needs a running platform or DATABASE_URL."""
    from cli.events import tail
    from cli.home import InvalidSettings, NoPlatform, connected_settings

    try:
        tail(
            connected_settings(),
            types=event_type or [],
            organization_id=organization,
            subject=subject,
            since=None if since_minutes is None else timedelta(minutes=since_minutes),
            follow=follow,
            as_json=as_json,
            say=lambda line: print(line, flush=True),
        )
    except (InvalidSettings, NoPlatform) as error:
        print(f"guardian: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
