"""``vigie score FILE.tif`` and ``vigie once ITEM``: one scene, now, without a store or a broker."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from daemon.adapters.single_item import read_item
from daemon.clock import SystemClock
from daemon.commands.configuration import ConfigFile, settings_of
from daemon.errors import ConfigError
from daemon.parts import OPTIONAL_BANDS, access_policy, bundle_path, read_limits, runner_choice
from daemon.score.reading import read_plan
from daemon.settings import Settings
from daemon.watch.stac_items import scene_from_item
from engine.bundle import ModelBundle
from engine.detect import Verdict, detect
from engine.errors import BandMissing
from engine.judge import DetectSettings
from engine.look import Look
from engine.mosaic import Mosaic
from engine.raster import TileReader, describe, plan_of_file, read_tiles, write_geotiff
from engine.read_plan import RasterInfo, ReadPlan
from engine.reference import Reference
from engine.scoring import SceneScorer
from engine.sensors import Sensor, named_sensor, sensor_for, sensor_of_file

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
HeatMap = Annotated[Path | None, typer.Option(help="Write the ODEED error map as a GeoTIFF.")]
SensorName = Annotated[str | None, typer.Option("--sensor", help="Take the file or Item to be of this sensor.")]


def score(
    file: Annotated[Path, typer.Argument(help="A GeoTIFF on this machine.")],
    config: ConfigFile = None,
    sensor: SensorName = None,
    heat_map: HeatMap = None,
    as_json: AsJson = False,
) -> None:
    """Score one GeoTIFF. A place without a past is judged on normal tiles of its sensor alone."""
    settings = settings_of(config)
    _check_writable(heat_map)
    info = describe(file, read_limits(settings))
    chosen = named_sensor(sensor) if sensor else _sensor_of(info)
    with _scorer(settings) as scorer:
        plan = _plan_of(info, chosen, scorer.bands(chosen.family))
        _score(settings, scorer, plan, file.name, heat_map, as_json)


def once(
    item: Annotated[str, typer.Argument(help="URL or path of a STAC Item.")],
    config: ConfigFile = None,
    sensor: SensorName = None,
    heat_map: HeatMap = None,
    as_json: AsJson = False,
) -> None:
    """Score one STAC Item, as far as `access` in the configuration allows its files to be read."""
    settings = settings_of(config)
    _check_writable(heat_map)
    document, base = read_item(item, now=SystemClock().now)
    scene = scene_from_item(
        document,
        catalog="once",
        sensor_of=lambda *where: named_sensor(sensor).name if sensor else sensor_for(*where).name,
    )
    with _scorer(settings) as scorer:
        bands = scorer.bands(named_sensor(scene.sensor).family)
        plan = read_plan(scene, access_policy(settings), bands=bands, optional=OPTIONAL_BANDS, base=base)
        _score(settings, scorer, plan, scene.item_id, heat_map, as_json)


def _check_writable(heat_map: Path | None) -> None:
    """Refuse a heat map that could not be written, before minutes are spent on it."""
    if heat_map is not None and not (heat_map.parent.is_dir() and os.access(heat_map.parent, os.W_OK)):
        raise ConfigError(f"there is no folder {heat_map.parent} to write into: make it, or correct --heat-map")


def _sensor_of(info: RasterInfo) -> Sensor:
    return sensor_of_file(
        count=info.count, dtypes=info.dtypes, descriptions=info.descriptions, alpha=info.alpha, path=info.path
    )


def _plan_of(info: RasterInfo, sensor: Sensor, bands: tuple[str, ...]) -> ReadPlan:
    further = tuple(name for name in OPTIONAL_BANDS if name not in bands and sensor.band(name) is not None)
    try:
        return plan_of_file(info, sensor, (*bands, *further))
    except BandMissing:
        return plan_of_file(info, sensor, bands)


def _scorer(settings: Settings) -> SceneScorer:
    return SceneScorer(ModelBundle.load(bundle_path(settings.engine.bundle)), runner_choice(settings))


def _score(
    settings: Settings, scorer: SceneScorer, plan: ReadPlan, name: str, heat_map: Path | None, as_json: bool
) -> None:
    family = plan.sensor.family
    reader = read_tiles(
        plan,
        None,
        tile_px=settings.scoring.tile_px,
        min_valid_ratio=settings.scoring.min_valid_ratio,
        batch_size=settings.engine.batch_size,
        limits=read_limits(settings),
    )
    began = time.monotonic()
    seconds: Counter[str] = Counter()
    parts: list[Look] = []
    mosaic = Mosaic()
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        bar = progress.add_task("tiles", total=None)
        for batch in reader:
            look, scores = scorer.look_and_maps(batch, family, seconds)
            parts.append(look)
            if heat_map is not None:
                for tile, error in zip(batch.tiles, scores.error_map, strict=True):
                    mosaic.add(tile, error[np.newaxis])
            progress.update(bar, total=reader.report.total, advance=len(batch))
    look = Look.join(parts)
    nothing = Reference.over(look.cell_ids, [], reference_id="none")
    verdict = detect(look, nothing, scorer.calibration(family), DetectSettings())
    if heat_map is not None and len(mosaic):
        write_geotiff(heat_map, mosaic.array(), mosaic.crs, mosaic.transform, nodata=float("nan"))
    result = _result(name, plan, reader, look, verdict, {**seconds, "read": reader.report.seconds})
    result["seconds"]["all"] = round(time.monotonic() - began, 3)
    if as_json:
        typer.echo(json.dumps(result, indent=2, allow_nan=False))
    else:
        _show(result)


def _result(
    name: str, plan: ReadPlan, reader: TileReader, look: Look, verdict: Verdict, seconds: dict[str, float]
) -> dict[str, Any]:
    report = reader.report
    known = look.odeed[np.isfinite(look.odeed)]
    water = look.water[np.isfinite(look.water)]
    return {
        "name": name,
        "sensor": plan.sensor.name,
        "grid": {"epsg": report.epsg, "gsd_m": report.gsd_m, "resampled": report.resampled},
        "tiles": {"total": report.total, "scored": report.read, "skipped": dict(sorted(report.skipped.items()))},
        "odeed": dict(zip(("low", "median", "high"), _quantiles(known, (0.05, 0.5, 0.95)), strict=True)),
        "smallest_p_value": float(verdict.p_value.min()) if len(look) else None,
        "water_share": float(water.mean()) if len(water) else None,
        "flagged_tiles": int(verdict.flagged.sum()),
        "detections": [asdict(found) for found in verdict.detections],
        "warnings": list(report.warnings),
        "seconds": {stage: round(spent, 3) for stage, spent in sorted(seconds.items())},
    }


def _quantiles(values: Any, at: tuple[float, ...]) -> list[float | None]:
    return [float(f"{np.quantile(values, q):.6g}") if len(values) else None for q in at]


def _show(result: dict[str, Any]) -> None:
    tiles, odeed = result["tiles"], result["odeed"]
    table = Table(title=result["name"], show_header=False, title_justify="left")
    table.add_column(style="dim")
    table.add_column()
    grid = result["grid"]
    warped = ", warped to it" if grid["resampled"] else ""
    table.add_row("sensor", f"{result['sensor']}, grid EPSG:{grid['epsg']} at {grid['gsd_m']:g} m{warped}")
    skipped = ", ".join(f"{count} {why}" for why, count in tiles["skipped"].items()) or "none"
    table.add_row("tiles", f"{tiles['scored']} scored of {tiles['total']}; skipped: {skipped}")
    if tiles["scored"]:
        table.add_row("ODEED (5 %, median, 95 %)", ", ".join(f"{odeed[key]:.3g}" for key in ("low", "median", "high")))
        table.add_row("smallest p-value", f"{result['smallest_p_value']:.3g}, against normal tiles of the sensor")
        water = result["water_share"]
        table.add_row("open water", "unknown: no SWIR or NIR band" if water is None else f"{100 * water:.1f} %")
        found = len(result["detections"])
        table.add_row("flagged", f"{result['flagged_tiles']} tiles, {found} detection{'' if found == 1 else 's'}")
    for warning in result["warnings"]:
        table.add_row("warning", warning)
    table.add_row("seconds", ", ".join(f"{stage} {spent:g}" for stage, spent in result["seconds"].items()))
    Console().print(table)
