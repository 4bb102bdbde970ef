"""``vigie``: the command line. Commands of other packages join by the entry-point group ``vigie.commands``."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points, version
from typing import Annotated

import typer

from daemon.commands import configuration, demonstrate, harvest, history, reembed, run, score, similar, state
from engine.errors import VigieError

GROUP = "vigie.commands"


def build() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="vigie",
        help="Watches STAC catalogs and turns new scenes into flood and anomaly alerts.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )

    @app.callback()
    def _vigie(
        show_version: Annotated[
            bool,
            # Eager, so that it is answered before a command is missed.
            typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_tell_version),
        ] = False,
    ) -> None:
        pass

    app.command("demo")(demonstrate.demo)
    app.command("run")(run.run)
    app.command("once")(score.once)
    app.command("score")(score.score)
    app.command("harvest")(harvest.harvest)
    app.command("check-config")(configuration.check_config)
    app.command("migrate")(state.migrate)
    app.command("replay")(state.replay)
    app.command("status")(state.status)
    app.command("backfill")(history.backfill)
    app.command("audit")(history.audit)
    app.command("reembed")(reembed.reembed)
    app.command("similar")(similar.similar)
    for entry in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        command = entry.load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)
    return app


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vigie {version('vigie')}")
        raise typer.Exit


def main() -> None:
    """Run the command line; an expected error is one message on standard error and exit code 1."""
    try:
        build()(prog_name="vigie")
    except VigieError as error:
        typer.echo(f"vigie: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
