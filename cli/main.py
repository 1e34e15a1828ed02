"""The command line. A command imports what it needs when it runs, so that ``guardian --help`` is instant."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer

from cli.events.commands import events
from cli.limits import limits
from cli.plans import plans
from cli.sign import sign

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
    from shared.settings import InvalidSettings, Settings, from_environment

    try:
        settings = from_environment(Settings)
    except InvalidSettings as error:
        print(f"guardian: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    findings = examine(settings)
    print(render_json(findings) if as_json else render(findings))
    if any(finding.stops for finding in findings):
        raise typer.Exit(1)


@app.command()
def up(
    *,
    split: Annotated[
        bool, typer.Option("--split", help="One process for each service and one for the gateway.")
    ] = False,
) -> None:
    """Start the whole platform, with its own PostgreSQL unless DATABASE_URL is set."""
    with _starting():
        from shared.settings import Settings, from_environment

        settings = from_environment(Settings)  # a wrong one is said at once, before everything is imported
        if split:
            from cli.split import up_split

            up_split(settings)
        else:
            from cli.up import up as run

            run(settings)


class Role(StrEnum):
    """What of a service a process runs."""

    API = "api"
    WORKER = "worker"
    ALL = "all"


@app.command()
def run(
    service: Annotated[str, typer.Argument(help="gateway, identity, crm, audit, ratelimit or health.")],
    *,
    role: Annotated[Role, typer.Option(help="Its API, its worker, or both.")] = Role.ALL,
    fd: Annotated[int | None, typer.Option(help="Serve on this inherited socket.")] = None,
) -> None:
    """Run one service, or the gateway, in this process. Needs DATABASE_URL; migrate first."""
    with _starting():
        from cli.home import connected_settings
        from cli.run import run as run_service

        run_service(connected_settings(required=False), service, role=role.value, descriptor=fd)


@contextmanager
def _starting() -> Iterator[None]:
    """Say in a sentence why something cannot start. What is imported on the way is no garbage: none is looked for."""
    gc.disable()
    from cli.start import CannotStart
    from shared.settings import InvalidSettings

    try:
        yield
    except (CannotStart, InvalidSettings) as error:
        print(f"guardian cannot start: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        gc.enable()


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
    """Write the OpenAPI, AsyncAPI and event schema files under openapi/ from the code.

    Refuses a breaking change of an event: a new version stands beside the old one.
    """
    from cli.compatibility import BreakingChange
    from cli.contracts import broken, drift, write

    try:
        if check and (sentences := broken()):
            raise BreakingChange(sentences)
        changed = drift() if check else write()
    except BreakingChange as refused:
        print("\n".join(refused.args[0]), file=sys.stderr)
        raise typer.Exit(1) from None
    for path in changed:
        print(f"{'drifted' if check else 'written'}: openapi/{path}")
    if not changed:
        print("openapi/ says what the code says.")
    if check and changed:
        print("Run 'make contracts' and commit the result.", file=sys.stderr)
        raise typer.Exit(1)


app.add_typer(events, name="events")
app.add_typer(plans, name="plans")
app.add_typer(limits, name="limits")
app.command()(sign)


if __name__ == "__main__":
    app()
