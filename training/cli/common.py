"""What the commands of the training room share: options, errors told, results printed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from engine.errors import VigieError

Seed = Annotated[int, typer.Option(help="Seed of weights, tiles and noise.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the configuration and stop.")]


@contextmanager
def errors_told() -> Iterator[None]:
    """Errors on purpose end the command with their message; anything else is a bug and shows its trace."""
    try:
        yield
    except VigieError as error:
        # Messages quote paths and other libraries, whose brackets are no markup.
        Console(stderr=True).print(f"[red]{type(error).__name__}[/red]: {escape(str(error))}")
        raise typer.Exit(1) from error


def print_json(value: Mapping[str, Any]) -> None:
    """Results to standard output, for machines."""
    typer.echo(json.dumps(value, indent=2, sort_keys=True, default=list))
