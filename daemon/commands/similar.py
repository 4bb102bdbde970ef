"""``vigie similar``: where else does it look like this?"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import shapely
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from daemon.app import App
from daemon.commands.beside import app_beside, moment
from daemon.commands.configuration import ConfigFile, settings_of
from daemon.errors import ConfigError
from daemon.parts import read_limits
from daemon.score.search import Filters, Query, query_by_cell, query_by_point, search
from daemon.store.records import LookKey
from engine.grid import Cell
from engine.raster import describe, plan_of_file, read_tiles
from engine.sensors import sensor_of_file
from engine.similar import Hit, Nearest

NOTE = (
    "The cosine says what is alike to the encoder: texture, colour and cover of a tile. It names no cause, and its "
    "scale is the model's own: compare it with the median of all tiles searched. Alike across sensor families is not "
    "verified."
)


def similar(
    config: ConfigFile = None,
    cell: Annotated[str | None, typer.Option(help="Id of a grid cell, as alerts list them.")] = None,
    at: Annotated[
        str | None, typer.Option(help="LON,LAT of a place; with --image, the tile of it that is meant.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="A GeoTIFF; its middle tile is meant.")] = None,
    date: Annotated[str | None, typer.Option(help="The place as last seen up to then; default: lately.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-k", min=1, help="How many tiles.")] = 10,
    area: Annotated[list[str] | None, typer.Option(help="Search only this area; may be given several times.")] = None,
    family: Annotated[
        str | None, typer.Option(help="Sensor family; default: the family of the tile asked for.")
    ] = None,
    all_families: Annotated[bool, typer.Option("--all-families", help="Search all sensor families.")] = False,
    since: Annotated[str | None, typer.Option(help="Search only looks from this date (UTC) on.")] = None,
    until: Annotated[str | None, typer.Option(help="Search only looks up to this date.")] = None,
    not_same_place: Annotated[
        bool, typer.Option("--not-same-place", help="Leave out the place and what touches it.")
    ] = False,
    once_per_place: Annotated[bool, typer.Option("--once-per-place", help="Only the best look of each cell.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the stored tiles that look most like a place or an image, by the embeddings of the present model."""
    if ((cell is None) == (at is None) and image is None) or (image is not None and cell is not None):
        raise ConfigError("say what to look for by one of --cell, --at and --image (which --at may go with)")
    if date is not None and image is not None:
        raise ConfigError("--date chooses a look of a place; an image has none")
    point = _point(at)
    with app_beside(settings_of(config)) as app:
        _check(app, area or [], family)
        which = Filters(
            areas=tuple(area) if area and cell is None and image is None else None,
            family=family,
            until=moment(date, "--date", end_of_day=True),
        )
        if image is not None:
            query = _query_of_image(app, image, point)
        elif cell is not None:
            query = query_by_cell(app.store, app.model.model_hash, _cell(cell), which)
        else:
            assert point is not None
            query = query_by_point(app.store, app.model.model_hash, *point, which)
        filters = Filters(
            areas=tuple(area) if area else None,
            family=None if all_families else family or query.family,
            since=moment(since, "--since"),
            until=moment(until, "--until", end_of_day=True),
            not_same_place=not_same_place,
            once_per_place=once_per_place,
        )
        began = time.monotonic()
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
            bar = progress.add_task("looks", total=None)
            nearest = search(
                app.store,
                app.model.model_hash,
                query,
                filters,
                limit,
                lambda done, total: progress.update(bar, completed=done, total=total),
            )
        result = _result(app, query, nearest, time.monotonic() - began)
    if as_json:
        typer.echo(json.dumps(result, indent=2, allow_nan=False))
    else:
        _show(result)


def _point(at: str | None) -> tuple[float, float] | None:
    if at is None:
        return None
    try:
        lon, lat = (float(part) for part in at.split(","))
    except ValueError as error:
        raise ConfigError(f"--at {at!r} is no place: write LON,LAT, such as 9.43,44.97") from error
    if not (-180 <= lon <= 180 and -90 <= lat <= 90):
        raise ConfigError(f"--at {at!r} is not on Earth: write LON,LAT in degrees, longitude first")
    return lon, lat


def _cell(text: str) -> Cell:
    try:
        return Cell.parse(text)
    except ValueError as error:
        raise ConfigError(f"--cell: {error}") from error


def _check(app: App, areas: list[str], family: str | None) -> None:
    known = set(app.areas) | {count.area for count in app.store.look_counts()}
    if unknown := [name for name in areas if name not in known]:
        raise ConfigError(f"--area {unknown[0]!r} is unknown; the areas are {', '.join(sorted(known)) or 'none'}")
    if family is not None and family not in app.model.families:
        raise ConfigError(f"--family {family!r} is unknown to the model; it has {', '.join(app.model.families)}")


def _query_of_image(app: App, image: Path, point: tuple[float, float] | None) -> Query:
    limits = read_limits(app.settings)
    info = describe(image, limits)
    sensor = sensor_of_file(
        count=info.count, dtypes=info.dtypes, descriptions=info.descriptions, alpha=info.alpha, path=info.path
    )
    scoring = app.settings.scoring
    reader = read_tiles(
        plan_of_file(info, sensor, app.scorer.bands(sensor.family)),
        None if point is None else [shapely.Point(*point).buffer(1e-7)],
        tile_px=scoring.tile_px,
        min_valid_ratio=scoring.min_valid_ratio,
        batch_size=app.settings.engine.batch_size,
        limits=limits,
    )
    batches = [(tile.cell_id, batch, row) for batch in reader for row, tile in enumerate(batch.tiles)]
    if not batches:
        raise ConfigError(f"{image} has no tile with enough valid ground there, so there is nothing to look for")
    cells = [Cell.parse(cell_id) for cell_id, _, _ in batches]
    middle = np.median([(cell.col, cell.row) for cell in cells], axis=0)
    at = min(range(len(cells)), key=lambda i: (cells[i].col - middle[0]) ** 2 + (cells[i].row - middle[1]) ** 2)
    _, batch, _ = batches[at]
    look = app.scorer.look(batch, sensor.family)
    row = look.row(cells[at].id)
    assert row is not None
    # Rounded as the store keeps the others.
    return Query(cls=look.rounded().cls[row], cell=cells[at], family=sensor.family, key=None)


def _result(app: App, query: Query, nearest: Nearest, seconds: float) -> dict[str, Any]:
    return {
        "query": {"cell": query.cell.id, "family": query.family, **_place(query.cell), **_of_look(app, query.key)},
        "model": {"name": app.model.name, "hash": app.model.model_hash},
        "searched": {
            "looks": nearest.looks,
            "tiles": nearest.tiles,
            "seconds": round(seconds, 3),
            "median_cosine": nearest.quantile(0.5),
            "cosine_99_percent": nearest.quantile(0.99),
        },
        "note": NOTE,
        "tiles": [_tile(app, rank, hit) for rank, hit in enumerate(nearest.best(), start=1)],
    }


def _tile(app: App, rank: int, hit: Hit) -> dict[str, Any]:
    key = hit.source if isinstance(hit.source, LookKey) else None
    family = {} if key is None else {"family": key.family}
    return {
        "rank": rank,
        "cosine": round(hit.cosine, 6),
        "cell": hit.cell_id,
        **family,
        **_place(Cell.parse(hit.cell_id)),
        **_of_look(app, key),
    }


def _place(cell: Cell) -> dict[str, Any]:
    centre = cell.lonlat.centroid
    return {"lon": round(centre.x, 6), "lat": round(centre.y, 6)}


def _of_look(app: App, key: LookKey | None) -> dict[str, Any]:
    if key is None:
        return {}
    row = app.store.scene(key.scene_id)
    return {
        "area": key.area,
        "sensing_time": key.sensing_time.isoformat().replace("+00:00", "Z"),
        "scene_id": key.scene_id,
        "scene": None if row is None else row.scene.identity,
        "item_id": None if row is None else row.scene.item_id,
        "flagged": key.flagged,
    }


def _show(result: dict[str, Any]) -> None:
    query, searched = result["query"], result["searched"]
    console = Console(soft_wrap=True, highlight=False)
    seen = f", seen {query['sensing_time']} in {query['item_id']}" if "item_id" in query else ""
    console.print(f"Like cell {query['cell']} ({query['lon']}, {query['lat']}){seen}", markup=False)
    if not result["tiles"]:
        console.print("No tile was found: no look of this model is in the areas and times asked for.")
        return
    table = Table(title_justify="left")
    for name in ("", "cosine", "cell", "lon, lat", "area", "sensed", "item", "flagged"):
        table.add_column(name, overflow="fold")
    for tile in result["tiles"]:
        table.add_row(
            str(tile["rank"]),
            f"{tile['cosine']:.4f}",
            tile["cell"],
            f"{tile['lon']:.4f}, {tile['lat']:.4f}",
            tile["area"],
            tile["sensing_time"][:16].replace("T", " "),
            tile["item_id"] or tile["scene_id"],
            "yes" if tile["flagged"] else "",
        )
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    console.print(
        f"{searched['tiles']} tiles of {searched['looks']} looks were compared in {searched['seconds']:.2f} s; "
        f"their median cosine is {searched['median_cosine']:.3f}, "
        f"1 in 100 is above {searched['cosine_99_percent']:.3f}."
    )
    console.print(result["note"], markup=False)
