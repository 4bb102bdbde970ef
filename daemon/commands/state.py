"""``vigie migrate``, ``vigie replay`` and ``vigie status``: what the store holds."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from daemon.clock import SystemClock
from daemon.commands.configuration import ConfigFile, settings_of
from daemon.errors import ConfigError
from daemon.settings import Settings
from daemon.store import Store


def _store(settings: Settings) -> Store:
    return Store.open(
        settings.store.url_with_password(), clock=SystemClock(), max_attempts=settings.worker.max_attempts
    )


def migrate(config: ConfigFile = None) -> None:
    """Bring the database to this version's schema; safe to repeat."""
    settings = settings_of(config)
    with _store(settings) as store:
        store.migrate()
    typer.echo("The database has this version's schema.")


def replay(
    items: Annotated[list[str] | None, typer.Argument(help="Ids of STAC Items, or of scenes in the store.")] = None,
    config: ConfigFile = None,
    failed: Annotated[bool, typer.Option("--failed", help="Every scene that failed for good.")] = False,
) -> None:
    """Have scenes scored again. Alerts that were sent keep their ids and are not sent twice."""
    if not items and not failed:
        raise ConfigError("nothing to replay: name Items, or give --failed")
    with _store(settings_of(config)) as store:
        names = items or []
        unknown = [name for name in names if store.scene(name) is None and not store.scenes(item_id=name)]
        if unknown:
            raise ConfigError(f"the store has no scene {', '.join(unknown)}; `vigie status` lists those it has")
        count = store.replay(scene_ids=names, item_ids=names, failed=failed)
        released = store.unpark()
    typer.echo(f"{count} scene{'' if count == 1 else 's'} will be scored again.")
    if released:
        typer.echo(f"{released} parked alert{'' if released == 1 else 's'} will be offered to the sinks again.")


def status(config: ConfigFile = None) -> None:
    """Show every scene and how it ended, and what waits to be published."""
    with _store(settings_of(config)) as store:
        rows = store.scenes()
        counts = store.counts()
    table = Table(title=f"{len(rows)} scenes")
    for name in ("sensed", "item", "sensor", "areas", "state", "outcome", "why"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(
            row.scene.sensing_time.strftime("%Y-%m-%d %H:%M"),
            row.scene.item_id,
            row.scene.sensor,
            ", ".join(f"{area} ({role})" for area, role in row.areas.items()),
            row.state,
            row.outcome or "",
            row.reason or "",
        )
    console = Console()
    console.print(table)
    console.print(f"{counts.outbox_unsent} alerts wait to be published, {counts.outbox_parked} are parked.")
