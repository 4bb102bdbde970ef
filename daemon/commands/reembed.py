"""``vigie reembed``: gives places their past back after a change of the model."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from daemon.app import App
from daemon.backoff import Backoff
from daemon.clock import SystemClock
from daemon.commands.beside import app_beside, moment
from daemon.commands.configuration import ConfigFile, settings_of
from daemon.errors import ConfigError
from daemon.operate.logs import configure_logs
from daemon.score.reembedding import Reembedder, ReembeddingRules
from daemon.score.renewal import Renewal, Turn


def reembed(
    config: ConfigFile = None,
    area: Annotated[list[str] | None, typer.Option(help="Only this area; may be given several times.")] = None,
    since: Annotated[str | None, typer.Option(help="Only scenes sensed from this date (UTC) on.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what there is to do, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read scenes again that only an earlier model has looked at, and keep what the present one sees.

    No alert comes of it, and fresh scenes go first. It may be stopped and started again at any time.
    """
    settings = settings_of(config)
    from_ = moment(since, "--since")
    configure_logs(settings.log.format, "warning")
    with app_beside(settings) as app:
        areas = _chosen(app, area or [])
        renewals = [_untouched(app, name, from_) for name in areas] if dry_run else _renew(app, areas, from_)
        model = {"name": app.model.name, "hash": app.model.model_hash}
    if as_json:
        typer.echo(json.dumps({"model": model, "areas": [_plain(each) for each in renewals]}, indent=2))
    else:
        _show(renewals, model, dry_run=dry_run)
    if not dry_run and any(each.left or each.left_out for each in renewals):
        raise typer.Exit(1)


def _chosen(app: App, wanted: Sequence[str]) -> list[str]:
    if unknown := [name for name in wanted if name not in app.areas]:
        raise ConfigError(
            f"--area {unknown[0]!r} is not configured; the areas are {', '.join(sorted(app.areas)) or 'none'}"
        )
    if not app.areas:
        raise ConfigError("the configuration names no area; name it by --config, or add one under `areas`")
    return list(dict.fromkeys(wanted)) or list(app.areas)


def _untouched(app: App, area: str, since: datetime | None) -> Renewal:
    wanted = app.store.looks_to_renew(app.model.model_hash, areas=(area,), since=since)
    return Renewal(area=area, wanted=len(wanted), stored=0, left_out=())


def _renew(app: App, areas: Sequence[str], since: datetime | None) -> list[Renewal]:
    if not any(_untouched(app, area, since).wanted for area in areas):
        return [Renewal(area=area, wanted=0, stored=0, left_out=()) for area in areas]
    stop = _stop_by_signal()
    # Before the first scene: networks that do not reproduce their golden batch here must not fill the store.
    app.open_engine(stop)
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[doing]}"),
        console=console,
        disable=not sys.stderr.isatty(),
    ) as progress:
        bars = {area: progress.add_task(area, total=None, doing="") for area in areas}

        def tell(turn: Turn) -> None:
            doing = {
                "reading": turn.item_id,
                "waiting": "fresh scenes go first",
                "done": "",
            }
            progress.update(bars[turn.area], total=turn.wanted, completed=turn.at, doing=doing[turn.doing])

        settings = app.settings
        reembedder = Reembedder(
            owner=f"{socket.gethostname()}-{os.getpid()}-reembed",
            store=app.store,
            areas=app.areas,
            open_scene=app.open_scene,
            scoring=app.scoring(),
            rules=ReembeddingRules(
                lease_s=settings.worker.lease_s,
                backoff=Backoff(base_s=min(5.0, settings.worker.retry_base_s), cap_s=settings.worker.retry_cap_s),
            ),
            clock=SystemClock(),
            rng=random.Random(),
            tell=tell,
        )
        return [reembedder.run(area, since, stop) for area in areas]


def _stop_by_signal() -> threading.Event:
    """Set by the first SIGINT or SIGTERM; a second one ends the process at once, which loses one scene's work."""
    stop = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stop


def _plain(renewal: Renewal) -> dict[str, Any]:
    return {
        "area": renewal.area,
        "wanted": renewal.wanted,
        "stored": renewal.stored,
        "left": renewal.left,
        "is_busy": renewal.is_busy,
        "left_out": [
            {**asdict(each), "sensing_time": each.sensing_time.isoformat().replace("+00:00", "Z")}
            for each in renewal.left_out
        ],
    }


def _show(renewals: Sequence[Renewal], model: dict[str, str], *, dry_run: bool) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"Model {model['name']} {model['hash'][:16]}", markup=False)
    for each in renewals:
        console.print(_sentence(each, dry_run=dry_run), markup=False)
    left_out = [scene for each in renewals for scene in each.left_out]
    if left_out:
        table = Table(title="could not be read again", title_justify="left")
        for name in ("sensed", "item", "area", "why"):
            table.add_column(name, overflow="fold")
        for scene in left_out:
            table.add_row(f"{scene.sensing_time:%Y-%m-%d %H:%M}", scene.item_id, scene.area, scene.reason)
        Console().print(table)


def _sentence(renewal: Renewal, *, dry_run: bool) -> str:
    if not renewal.wanted:
        return f"{renewal.area}: nothing to read again; every look that an earlier model kept has its successor."
    looks = f"{renewal.wanted} look{'' if renewal.wanted == 1 else 's'}"
    if dry_run:
        return f"{renewal.area}: {looks} of earlier models to make anew."
    if renewal.is_busy:
        return f"{renewal.area}: another process is making its {looks} anew; let it finish, then run this again."
    parts = [f"{renewal.stored} of {looks} made anew"]
    if renewal.left_out:
        parts.append(f"{len(renewal.left_out)} could not be read (below); a later run tries them again")
    if renewal.left:
        parts.append(f"{renewal.left} left: run this again to go on")
    return f"{renewal.area}: {'; '.join(parts)}."
