"""``vigie harvest``: tiles to train on from any STAC catalog that the daemon can watch."""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from daemon.adapters.host_gate import HostGates
from daemon.backoff import Backoff
from daemon.clock import SystemClock
from daemon.commands.configuration import ConfigFile, settings_of
from daemon.errors import CatalogUnavailable, HarvestInvalid
from daemon.harvest.harvest import Harvest, Summary
from daemon.harvest.listing import Field, Listing, list_scenes
from daemon.harvest.order import Order
from daemon.harvest.reading import SceneReader
from daemon.parts import access_policy, bundle_path, catalog_of, read_limits
from daemon.scenes import Scene
from daemon.score.access import AccessPolicy
from daemon.settings import Settings
from daemon.settings.areas import AreaSettings
from daemon.settings.sections import CatalogSettings
from engine.bundle import ModelBundle

Collections = Annotated[list[str], typer.Option("--collection", help="STAC collection; give two to get pairs.")]


def harvest(
    out: Annotated[Path, typer.Option(help="Folder to write; a stopped harvest in it goes on.")],
    collection: Collections,
    start: Annotated[str, typer.Option("--from", help="First day, 2024-06-01, or an instant with its zone.")],
    end: Annotated[str, typer.Option("--to", help="Last day, included.")],
    config: ConfigFile = None,
    catalog: Annotated[
        str | None,
        typer.Option(help="A configured catalog's name, a STAC URL or a folder; else all configured catalogs."),
    ] = None,
    area: Annotated[str | None, typer.Option(help="A configured area's name, or a GeoJSON file.")] = None,
    bbox: Annotated[str | None, typer.Option(help="Instead of an area: west,south,east,north in degrees.")] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Host whose rasters may be read, beside access.hosts; give several.")
    ] = None,
    allow_folder: Annotated[
        list[Path] | None, typer.Option(help="Folder whose rasters may be read, beside access.local_roots.")
    ] = None,
    sensor: Annotated[
        list[str] | None, typer.Option(help="COLLECTION=SENSOR where Items do not tell their sensor; give several.")
    ] = None,
    bands: Annotated[
        list[str] | None,
        typer.Option(help="COLLECTION=red,green,blue instead of the bundle's bands for its sensor; give several."),
    ] = None,
    tiles: Annotated[
        int, typer.Option(min=1, help="Squares of ground, at most: each scene gives as many tiles.")
    ] = 200,
    scenes: Annotated[int, typer.Option(min=1, help="Scenes of each collection, at most.")] = 12,
    side: Annotated[float, typer.Option(min=10, help="Side of a tile on the ground, metres.")] = 640.0,
    within: Annotated[float, typer.Option(min=0, help="Days that two looks may be apart and still be a pair.")] = 5.0,
    max_cloud: Annotated[float, typer.Option(min=0, max=100, help="Cloud cover of a scene, percent.")] = 40.0,
    min_clear: Annotated[float, typer.Option(min=0.01, max=1, help="Share of a tile that must be clear.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Which scenes and squares are taken where there are more.")] = 0,
) -> None:
    """Read clear tiles of scenes as tile shards; tiles of two collections pair by the ground that they show."""
    settings = settings_of(config)
    order = Order(
        collections=tuple(collection),
        area=_area(settings, area, bbox),
        start=_instant(start),
        end=_instant(end, whole_day=True),
        bands={name: tuple(value.split(",")) for name, value in _pairs("--bands", bands).items()},
        side_m=side,
        tiles=tiles,
        scenes=scenes,
        max_cloud_percent=max_cloud,
        min_clear=min_clear,
        within_days=within,
        seed=seed,
    )
    clock = SystemClock()
    fields = _fields(settings, catalog, order, _pairs("--sensor", sensor), clock)
    bases = {field.catalog.name: field.catalog.base for field in fields}
    bundle = ModelBundle.load(bundle_path(settings.engine.bundle))
    policy = access_policy(settings)
    policy = AccessPolicy(
        hosts=(*policy.hosts, *(allow_host or ())),
        http_hosts=policy.http_hosts,
        local_roots=(*policy.local_roots, *(folder.resolve() for folder in allow_folder or ())),
    )
    console = Console(stderr=True)

    def pause(failures: int, error: CatalogUnavailable) -> None:
        delay_s = Backoff(cap_s=60.0).delay_s(failures, random.Random(failures), asked_s=error.retry_after_s)
        console.print(f"waiting {delay_s:.0f} s: {escape(str(error))}")
        clock.wait(threading.Event(), delay_s)

    work = Harvest(out, order)
    choice, listing = work.plan(lambda: list_scenes(fields, order, pause=pause))
    if listing is not None:
        _tell_listing(console, listing)
    reader = SceneReader(
        order,
        choice.ground,
        policy=policy,
        limits=read_limits(settings),
        bands_of=lambda family: bundle.family(family).bands,
        base_of=lambda name: bases[name],
    )
    with Progress(console=console, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("scenes", total=len(choice.scenes))

        def show(scene: Scene, what: str) -> None:
            progress.console.print(f"{scene.sensing_time:%Y-%m-%d} {scene.collection}/{scene.item_id}: {escape(what)}")
            progress.advance(bar)

        failures = work.read(choice, reader, show=show)
    summary = work.summary(failures)
    _tell_summary(console, out, summary)
    typer.echo(json.dumps(asdict(summary), indent=2))
    if failures:
        raise typer.Exit(1)


def _tell_listing(console: Console, listing: Listing) -> None:
    passed = ", ".join(f"{count} {why}" for why, count in sorted(listing.passed_over.items())) or "none"
    console.print(f"{len(listing.scenes)} scenes listed; passed over: {passed}")
    for fault in listing.faults[:5]:
        console.print(f"  {escape(fault)}")


def _tell_summary(console: Console, out: Path, summary: Summary) -> None:
    for name, count in summary.tiles.items():
        console.print(f"{name}: {count} tiles of {summary.scenes[name]} scenes")
    for each in summary.pairs:
        told = " and ".join(dict.fromkeys(each.collections))
        console.print(f"{told}: {each.pairs} pairs, half of them at most {each.median_days:.1f} days apart")
    if summary.failures:
        console.print(f"{len(summary.failures)} scenes could not be read; the same command tries them again")
    if any(summary.tiles.values()):
        console.print(f"train on them: vigie train xstars --pairs shards={out} ...", soft_wrap=True)


def _fields(
    settings: Settings, catalog: str | None, order: Order, sensors: dict[str, str], clock: SystemClock
) -> list[Field]:
    """The catalogs that may hold the collections, each asked only for those that it may hold."""
    configured = [each for each in settings.catalogs if catalog in (None, each.name)]
    if not configured:
        if catalog is None:
            raise HarvestInvalid("no catalog: give --catalog URL or FOLDER, or a configuration that has one")
        configured = [_catalog_at(catalog, order)]
    gates = HostGates(clock, random.Random(order.seed))
    fields = []
    for each in configured:
        known = dict(each.collections)
        wanted = tuple(name for name in order.collections if not known or name in known)
        if wanted:
            fields.append(
                Field(
                    catalog=catalog_of(each, clock, gates),
                    sensors={**{name: known.get(name, "auto") for name in wanted}, **sensors},
                    collections=wanted,
                    page_size=each.page_size,
                )
            )
    held = {name for field in fields for name in field.collections}
    missing = [name for name in order.collections if name not in held]
    if missing:
        raise HarvestInvalid(f"no configured catalog has {', '.join(missing)}; add it, or give --catalog URL")
    return fields


def _catalog_at(where: str, order: Order) -> CatalogSettings:
    """A catalog by its URL or folder; a URL that ends in ``.json`` is a static one."""
    remote = where.startswith(("https://", "http://"))
    static = not remote or where.endswith(".json")
    if not remote and not Path(where).exists():
        raise HarvestInvalid(f"there is no catalog {where!r}: give a configured name, a URL, or a folder that exists")
    try:
        return CatalogSettings(
            name="harvest",
            type="static" if static else "stac-api",
            url=where if remote else str(Path(where).resolve()),
            collections=dict.fromkeys(order.collections, "auto"),
        )
    except ValidationError as error:
        raise HarvestInvalid(f"--catalog {where}: {error.errors()[0]['msg']}") from error


def _area(settings: Settings, area: str | None, bbox: str | None) -> dict[str, object]:
    """The GeoJSON of a configured area, of a file, or of a bounding box."""
    if (area is None) == (bbox is None):
        raise HarvestInvalid("say where: give either --area or --bbox")
    known = {each.name: each for each in settings.areas}
    try:
        if bbox is not None:
            box = tuple(float(number) for number in bbox.split(","))
            chosen = AreaSettings.model_validate({"name": "harvest", "bbox": box})
        elif area in known:
            chosen = known[area]
        else:
            chosen = AreaSettings.model_validate({"name": "harvest", "file": area})
        return dict(chosen.to_area().geometry)
    except ValidationError as error:
        raise HarvestInvalid(f"the area cannot be used: {error.errors()[0]['msg']}") from error
    except ValueError as error:
        raise HarvestInvalid(f"the area cannot be used: {error}") from error


def _instant(text: str, *, whole_day: bool = False) -> datetime:
    """A day or an instant, aware UTC; a last day counts to its end."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise HarvestInvalid(f"{text!r} is no date; write it as 2024-06-01 or 2024-06-01T10:00:00Z") from error
    if len(text) == len("2024-06-01"):
        at = at.replace(tzinfo=UTC) + (timedelta(days=1, microseconds=-1) if whole_day else timedelta())
    elif at.tzinfo is None:
        raise HarvestInvalid(f"{text!r} names no zone; end it with Z for UTC")
    return at.astimezone(UTC)


def _pairs(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    """``COLLECTION=VALUE`` of the command line."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, separator, value = text.partition("=")
        if not separator or not name or not value:
            raise HarvestInvalid(f"{option} {text}: write COLLECTION=VALUE")
        found[name] = value
    return found
