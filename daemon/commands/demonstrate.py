"""``vigie demo``: a flood becomes an alert, on this machine, from nothing."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from daemon.demo.tour import run_demo

WIDTH = 150
"""Columns of output that is not a terminal."""


def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo's catalog, state and pictures go.")] = Path("var/demo"),
    kafka: Annotated[bool, typer.Option("--kafka/--no-kafka", help="Use a local Kafka broker where possible.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the simulated place.")] = 0,
) -> None:
    """Simulate a river valley and its flood, watch its catalog, and show the alerts as read back from the topic."""
    # A stopped demo must not leave its broker behind: leaving by exception runs what stops it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # Tables in a file or a pipe are not folded to the 80 columns that rich assumes there.
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    tour = run_demo(folder, console, use_kafka=kafka, seed=seed)
    if not tour.in_order or not tour.alerts:
        console.print("[bold red]The demo did not end as it should; see the daemon's log.[/]")
        raise typer.Exit(1)
