"""``vigie backfill`` and ``vigie audit``: the past of catalogs, on request."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from daemon.adapters.host_gate import HostGates
from daemon.adapters.stac import StacApiCatalog
from daemon.backoff import Backoff
from daemon.clock import SystemClock
from daemon.commands.configuration import ConfigFile, settings_of
from daemon.errors import CatalogUnavailable, ConfigError
from daemon.parts import catalog_of, catalog_watch
from daemon.scenes import Scene
from daemon.settings import Settings
from daemon.settings.problems import did_you_mean
from daemon.store import Store, WatchedArea
from daemon.watch.audit import Audit, compare, list_catalog
from daemon.watch.back_fill import BackFill, Progress
from daemon.watch.poll import CatalogWatch
from daemon.watch.stac_times import format_time, parse_time
from daemon.watch.windows import Window

_PATIENCE_S = 600.0
"""A catalog that asks for a longer wait ends the command; it goes on when it is run again."""
_ON_ITS_WAY = timedelta(hours=6)
_AUDIT_SOURCE = "audit"

From = Annotated[str | None, typer.Option("--from", help="First day, or RFC 3339 time, of sensing.")]
To = Annotated[str | None, typer.Option("--to", help="Last day, or RFC 3339 time, of sensing; default: now.")]
Areas = Annotated[list[str] | None, typer.Option("--area", help="Only this area; may be repeated.")]
Catalogs = Annotated[list[str] | None, typer.Option("--catalog", help="Only this catalog; may be repeated.")]


@dataclass(frozen=True)
class _History:
    settings: Settings
    store: Store
    watched: Mapping[str, WatchedArea]
    watches: tuple[CatalogWatch, ...]
    gates: HostGates
    clock: SystemClock
    pause: Callable[[int, CatalogUnavailable], None]


def backfill(
    start: Annotated[str, typer.Option("--from", help="First day, or RFC 3339 time, of sensing.")],
    end: To = None,
    area: Areas = None,
    catalog: Catalogs = None,
    again: Annotated[bool, typer.Option("--again", help="Also read what an earlier run has read.")] = False,
    config: ConfigFile = None,
) -> None:
    """Queue the scenes of a past span of time. Fresh scenes never wait for them; stopped, it goes on where it stood."""
    console = Console(stderr=True)
    with _history(config, area, catalog) as history:
        window = _span(start, end, history.clock.now())
        totals = [0, 0, 0]
        with Bar(console=console, transient=True) as bar:
            for watch in history.watches:
                tasks = {
                    each.name: bar.add_task(f"{watch.catalog.name} {each.name}", total=1.0) for each in watch.areas
                }

                def on_progress(progress: Progress, tasks: Mapping[str, Any] = tasks) -> None:
                    bar.update(tasks[progress.area], completed=progress.share)

                filling = BackFill(
                    watch,
                    history.store,
                    history.watched,
                    versions_of=history.store.versions_of,
                    pause=history.pause,
                    on_progress=on_progress,
                )
                tally = filling.run(window.start, window.end, again=again)
                for fault in tally.faults:
                    console.print(f"passed over: {fault}", markup=False)
                totals = [
                    totals[0] + tally.items,
                    totals[1] + tally.new + tally.changed,
                    totals[2] + tally.made_claimable,
                ]
    typer.echo(
        f"{totals[0]} Items listed, {totals[1]} of them new; {totals[2]} scenes will be scored when no fresh one waits."
    )


def audit(
    start: From = None,
    end: To = None,
    area: Areas = None,
    against: Annotated[
        list[str] | None, typer.Option("--against", help="URL of a STAC API that is not in the configuration.")
    ] = None,
    collection: Annotated[
        list[str] | None, typer.Option("--collection", help="Collection of --against; may be repeated.")
    ] = None,
    schedule: Annotated[
        bool, typer.Option("--schedule", help="Have what is missing, was left behind or has failed scored.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigFile = None,
) -> None:
    """Compare catalogs with one another and with the store: what one lacks, what was never scored. Default: 30 days."""
    with _history(config, area, None) as history, ExitStack() as stack:
        now = history.clock.now()
        window = _span(start or format_time(now - timedelta(days=30)), end, now)
        watches = list(history.watches)
        for number, url in enumerate(against or (), start=1):
            watches.append(_second_catalog(history, stack, f"against-{number}", url, collection or ()))
        listings = [list_catalog(watch, history.watched, window, pause=history.pause) for watch in watches]
        asked = {each.name for watch in watches for each in watch.areas}
        rows = [row for row in history.store.scenes() if asked & set(row.areas)]
        found = compare(listings, rows, window, idle_before=now - _ON_ITS_WAY)
        _print_json(found) if as_json else _print_tables(found)
        if schedule:
            count = _schedule(found, history)
            typer.echo(f"{count} scenes will be scored.", err=as_json)
        elif found.missing or found.unscored:
            typer.echo(f"Run `vigie audit --schedule` to have {_wanted(found)} scenes scored.", err=as_json)


@contextmanager
def _history(config: Any, areas: Sequence[str] | None, catalogs: Sequence[str] | None) -> Iterator[_History]:
    settings = settings_of(config)
    settings.require_watch()
    _check_names("area", areas, [each.name for each in settings.areas])
    _check_names("catalog", catalogs, [each.name for each in settings.catalogs])
    clock, rng = SystemClock(), random.Random()
    gates = HostGates(clock, rng)
    backoff = Backoff(cap_s=60.0)

    def pause(failures: int, error: CatalogUnavailable) -> None:
        wait_s = backoff.delay_s(failures, rng, asked_s=error.retry_after_s)
        if wait_s > _PATIENCE_S:
            raise error
        clock.wait(threading.Event(), wait_s)

    with ExitStack() as stack:
        store = stack.enter_context(
            Store.open(settings.store.url_with_password(), clock=clock, max_attempts=settings.worker.max_attempts)
        )
        store.migrate()
        every = {area.name: area for area in settings.watched_areas()}
        watched = store.register_areas(
            list(every.values()),
            {
                each.name: [area.name for area in settings.areas if area.watches(each.name)]
                for each in settings.catalogs
            },
        )
        watches = []
        for each in settings.catalogs:
            if catalogs and each.name not in catalogs:
                continue
            catalog = catalog_of(each, clock, gates)
            stack.callback(getattr(catalog, "close", lambda: None))
            watch = catalog_watch(settings, each, catalog, every)
            kept = tuple(area for area in watch.areas if not areas or area.name in areas)
            if kept:
                watches.append(replace(watch, areas=kept))
        yield _History(settings, store, watched, tuple(watches), gates, clock, pause)


def _second_catalog(
    history: _History, stack: ExitStack, name: str, url: str, collections: Sequence[str]
) -> CatalogWatch:
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"--against {url!r} is no URL; catalogs of the configuration are compared anyway")
    if not collections:
        raise ConfigError("--against needs --collection, else it would list every data set that the catalog holds")
    catalog = StacApiCatalog(name, url, now=history.clock.now, gates=history.gates)
    stack.callback(catalog.close)
    areas = {area.name: area for watch in history.watches for area in watch.areas}
    return CatalogWatch(catalog=catalog, areas=tuple(areas.values()), sensors=dict.fromkeys(collections, "auto"))


def _schedule(found: Audit, history: _History) -> int:
    """Have everything scored that an audit found wanting; returns how many scenes."""
    if found.missing:
        history.store.record_page(_AUDIT_SOURCE, found.missing)
    left = [unscored.scene.scene_id for unscored in found.unscored if unscored.state == "discovered"]
    failed = [unscored.scene.scene_id for unscored in found.unscored if unscored.state == "failed"]
    count = history.store.release_listed(_AUDIT_SOURCE, list(history.watched))
    count += history.store.release_left(left)
    return count + history.store.replay(scene_ids=failed)


def _wanted(found: Audit) -> int:
    return len(found.missing) + sum(unscored.state in ("discovered", "failed") for unscored in found.unscored)


def _print_json(found: Audit) -> None:
    def sketch(scene: Scene) -> dict[str, Any]:
        return {
            "catalog": scene.catalog,
            "collection": scene.collection,
            "item": scene.item_id,
            "sensed": format_time(scene.sensing_time),
            "identity": scene.identity,
        }

    typer.echo(
        json.dumps(
            {
                "from": format_time(found.start),
                "to": format_time(found.end),
                "listed": dict(found.listed),
                "coverage": {name: round(share, 4) for name, share in found.coverage.items()},
                "lacks": {name: [sketch(scene) for scene in scenes] for name, scenes in found.lacks.items()},
                "missing": [sketch(sighting.scene) for sighting in found.missing],
                "unscored": [
                    {**sketch(each.scene), "state": each.state, "reason": each.reason} for each in found.unscored
                ],
                "withdrawn": [sketch(scene) for scene in found.withdrawn],
                "faults": list(found.faults),
            },
            indent=2,
        )
    )


def _print_tables(found: Audit) -> None:
    console = Console()
    table = Table(title=f"Scenes wanted, sensed {found.start:%Y-%m-%d %H:%M} to {found.end:%Y-%m-%d %H:%M} UTC")
    for name in ("catalog", "lists", "lacks", "coverage"):
        table.add_column(name)
    for catalog, count in found.listed.items():
        table.add_row(catalog, str(count), str(len(found.lacks[catalog])), f"{100 * found.coverage[catalog]:.1f} %")
    console.print(table)
    rows = [
        (f"{name} lacks", scene, f"{scene.catalog} lists it") for name, part in found.lacks.items() for scene in part
    ]
    rows += [("never discovered", sighting.scene, "") for sighting in found.missing]
    rows += [(f"not scored: {each.state}", each.scene, each.reason or "") for each in found.unscored]
    rows += [("no longer listed", scene, f"taken from {scene.catalog}") for scene in found.withdrawn]
    if rows:
        table = Table()
        for name in ("what", "sensed", "item", "why"):
            table.add_column(name, overflow="fold")
        for what, scene, why in rows:
            table.add_row(what, f"{scene.sensing_time:%Y-%m-%d %H:%M}", scene.item_id, why)
        console.print(table)
    else:
        console.print("Nothing is missing, and everything discovered has been scored or is on its way.")
    for fault in found.faults:
        console.print(f"passed over: {fault}", markup=False)


def _check_names(what: str, asked: Sequence[str] | None, known: Sequence[str]) -> None:
    for name in asked or ():
        if name not in known:
            raise ConfigError(f"no {what} is named {name!r}; {did_you_mean(name, set(known))}")


def _span(start: str, end: str | None, now: datetime) -> Window:
    first = _time(start, "--from", timedelta())
    last = now if end is None else _time(end, "--to", timedelta(days=1))
    if first >= last:
        raise ConfigError(f"--from {start} is not before --to {end or 'now'}")
    return Window(start=first, end=last)


def _time(text: str, option: str, whole_day: timedelta) -> datetime:
    """An RFC 3339 time, or a day: its start, or with ``whole_day`` its end."""
    try:
        if len(text) == len("2026-01-01"):
            return datetime.fromisoformat(text).replace(tzinfo=UTC) + whole_day
        return parse_time(text)
    except ValueError as error:
        raise ConfigError(f"{option} {text!r} is neither a day such as 2026-01-31 nor an RFC 3339 time") from error
