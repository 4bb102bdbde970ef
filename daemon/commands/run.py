"""``vigie run``: the daemon."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Annotated

import typer

from daemon.app import App, Role, Surroundings
from daemon.clock import SystemClock
from daemon.commands.configuration import ConfigFile, settings_of
from daemon.operate.logs import configure_logs
from daemon.service import serve

DEVICE_LOST = 75
"""Exit status (sysexits' EX_TEMPFAIL) after a broken GPU context: start the same command again."""


def run(
    config: ConfigFile = None,
    role: Annotated[Role, typer.Option(help="Which of the daemon's parts run in this process.")] = "all",
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="Stop once catalogs are polled, scenes scored and alerts sent.")
    ] = False,
) -> None:
    """Watch, score and publish until stopped. SIGTERM hands work in hand back; a second one ends at once."""
    settings = settings_of(config)
    settings.require_watch()
    configure_logs(settings.log.format, settings.log.level)
    stop = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if stop.is_set():
            # Leases and the outbox make even this safe; it only costs the lease's time.
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    clock = SystemClock()
    with App(settings, Surroundings(clock=clock, pid=os.getpid()), role=role) as app:
        in_order = serve(app, stop, clock, until_idle=until_idle)
    if app.device_lost.is_set():
        # Python's own way out would call into the broken context, which may hang.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(DEVICE_LOST)
    if not in_order:
        if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
            # Python would wait for a loop that hangs, past any deadline. Leases and the outbox make leaving it safe.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        raise typer.Exit(1)
