"""A wired daemon without its loops, for commands that use the store and the engine beside a running one."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from daemon.app import App, Surroundings
from daemon.clock import SystemClock
from daemon.errors import ConfigError
from daemon.settings import Settings


def app_beside(settings: Settings) -> App:
    """The daemon's parts as its workers have them; it serves no port and sends nothing."""
    quiet = settings.model_copy(update={"http": settings.http.model_copy(update={"enabled": False})})
    return App(quiet, Surroundings(clock=SystemClock(), pid=os.getpid(), sinks=()), role="score")


def moment(text: str | None, option: str, *, end_of_day: bool = False) -> datetime | None:
    """An ISO date or time as UTC; a bare date means its first moment, or its last.

    Raises:
        ConfigError: it is neither.
    """
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{option} {text!r} is no date: write 2026-05-26 or 2026-05-26T10:10:21Z") from error
    if end_of_day and len(text) <= len("2026-05-26"):
        time += timedelta(days=1, microseconds=-1)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
