"""Pictures of alerts: the scene, an earlier one, and where the reconstruction error changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter
from shapely.geometry import shape

from daemon.app import App
from daemon.demo.pictures import FALSE_COLOUR, DetectionPicture, write_picture
from daemon.scenes import Scene
from daemon.store.records import SceneRow
from engine.mosaic import Mosaic
from engine.sensors import named_sensor
from engine.tiles import Float32Array

TRUE_COLOUR = ("red", "green", "blue")
TRUE_WHITE = (0.75, 0.75, 0.75)
MARGIN_DEGREES = 0.005
"""Ground shown around a detection, about 500 m."""


def draw_alerts(app: App, alerts: Sequence[Mapping[str, Any]], folder: Path) -> tuple[Path, ...]:
    """One PNG for each alert whose scene, and an earlier scene of the same sensor, are still in the store."""
    rows = [row for row in app.store.scenes() if row.outcome == "scored"]
    written = []
    for feature in sorted(alerts, key=lambda each: (each["properties"]["sensing_time"], each["id"])):
        scene = next((r for r in rows if r.scene.item_id == feature["properties"]["scene"]["item_id"]), None)
        before = None if scene is None else _before(rows, scene)
        if scene is not None and before is not None:
            written.append(_draw(app, feature, scene.scene, before.scene, folder))
    return tuple(written)


def _before(rows: Sequence[SceneRow], scene: SceneRow) -> SceneRow | None:
    """The last scene of the same sensor that raised nothing."""
    earlier = [
        row
        for row in rows
        if row.scene.sensor == scene.scene.sensor
        and row.scene.sensing_time < scene.scene.sensing_time
        and not row.stats.get("detections")
    ]
    return max(earlier, key=lambda row: row.scene.sensing_time, default=None)


def _draw(app: App, feature: Mapping[str, Any], scene: Scene, before: Scene, folder: Path) -> Path:
    found = feature["properties"]
    family = named_sensor(scene.sensor).family
    bands = FALSE_COLOUR if family == "sentinel-2" else TRUE_COLOUR
    area = shape(dict(app.areas[found["area"]].geometry)).intersection(
        shape(dict(feature["geometry"])).envelope.buffer(MARGIN_DEGREES)
    )
    now, past = _read(app, scene, area, bands, family), _read(app, before, area, bands, family)
    picture = DetectionPicture(
        area_name=found["area"],
        kind=found["kind"],
        time=scene.sensing_time,
        before_time=before.sensing_time,
        area_m2=found["affected_area_m2"],
        p_value=found["p_value"],
        calibration=found["calibration"]["level"],
        before=_onto(past, now),
        after=np.nan_to_num(now.array()[:3]),
        heat=_changed(now.array()[3], _onto(past, now, channel=3)),
        heat_name="where the ODEED error changed",
        outline=feature["geometry"],
        epsg=int(now.crs.removeprefix("EPSG:")),
        transform=now.transform,
    )
    if family != "sentinel-2":
        picture = replace(picture, white=TRUE_WHITE, colours="true colour")
    name = f"{scene.sensing_time:%Y%m%dT%H%M%S}-{found['kind']}-{feature['id'][:8]}.png"
    return write_picture(folder / name, picture)


def _read(app: App, scene: Scene, area: Any, bands: Sequence[str], family: str) -> Mosaic:
    """Reflectance in three bands and the ODEED error of every tile.  Pieces (4, H, W)"""
    mosaic = Mosaic()
    for batch in app.open_scene(scene, [area], app.scorer.bands(family)):
        _, scores = app.scorer.look_and_maps(batch, family)
        pixels = np.where(batch.valid[:, None], batch.select(bands), 0.0)
        errors = np.where(batch.valid, scores.error_map, np.nan)
        for tile, picture, error in zip(batch.tiles, pixels, errors, strict=True):
            mosaic.add(tile, np.concatenate([picture, error[np.newaxis]]).astype(np.float32))
    return mosaic


def _onto(mosaic: Mosaic, other: Mosaic, channel: int | None = None) -> Float32Array:
    """The first three channels, or one, of a mosaic on another's grid; 0 (one channel: NaN) where it shows nothing."""
    source, target = mosaic.array(), other.array()
    gsd_m = other.transform[0]
    down = round((other.transform[5] - mosaic.transform[5]) / gsd_m)
    right = round((mosaic.transform[2] - other.transform[2]) / gsd_m)
    whole = np.full((source.shape[0], *target.shape[1:]), np.nan, dtype=np.float32)
    rows = slice(max(down, 0), min(down + source.shape[1], whole.shape[1]))
    columns = slice(max(right, 0), min(right + source.shape[2], whole.shape[2]))
    whole[:, rows, columns] = source[
        :, rows.start - down : rows.stop - down, columns.start - right : columns.stop - right
    ]
    return np.nan_to_num(whole[:3]) if channel is None else whole[channel]


def _changed(now: Float32Array, past: Float32Array) -> Float32Array:
    """|log ratio| of two error maps, smoothed over 5 x 5 pixels; NaN where either is unknown.  (H, W)"""
    floor = 1e-5
    ratio = np.abs(np.log((np.nan_to_num(now) + floor) / (np.nan_to_num(past) + floor)))
    smooth = uniform_filter(ratio, size=5)
    return np.where(np.isfinite(now) & np.isfinite(past), smooth, np.nan).astype(np.float32)
