"""The passes over the simulated place, written as cloud-optimised GeoTIFFs with a STAC catalog beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from daemon.demo.catalog import (
    AERIAL,
    GEOTIFF,
    SATELLITE,
    file_fields,
    item_folder,
    make_item,
    write_catalog,
    write_item,
)
from daemon.demo.passes import FLOOD_TIME, PASSES, PassKind, PassPlan
from daemon.demo.place import (
    EPSG,
    NORTH_M,
    WEST_M,
    Ground,
    Moment,
    SimulatedPlace,
    Transform,
    area_geometry,
    square_lonlat,
    transform,
)
from daemon.demo.sky import (
    L2A_NODATA,
    L2A_OFFSET,
    L2A_SCALE,
    block_mean,
    make_clouds,
    scene_classes,
    through_air,
    to_l2a,
    to_photo,
)
from daemon.demo.terrain import PIXEL_M, SIDE_M
from engine.raster import write_geotiff
from engine.tiles import BoolArray, Float32Array

BANDS_GSD_M = {"blue": 10, "green": 10, "red": 10, "nir": 10, "swir16": 20}
AERIAL_SIDE_M = 4 * 640.0
BASELINE = "05.11"
GRID_CODE = "MGRS-32TNQ"

Progress = Callable[[int, int], None]
"""Called with (passes written, passes in all)."""


@dataclass(frozen=True, kw_only=True)
class DemoPass:
    """One pass that was written, with the truth that no real scene comes with."""

    item_id: str
    collection: str
    kind: PassKind
    time: datetime
    """Sensing time, aware UTC."""
    gsd_m: float
    """Pixel size of the truth arrays and of the scene's finest bands."""
    crs: str
    transform: Transform
    """Affine a..f of the truth arrays."""
    bands: tuple[str, ...]
    reflectance: Float32Array
    """What the files hold, as reflectance 0..1 on the finest grid (aerial: brightness 0..1).  (C, H, W)"""
    flood: BoolArray
    """Ground that is under water now and is dry at the normal level.  (H, W)"""
    water: BoolArray
    """All ground under open water.  (H, W)"""
    clear: BoolArray
    """Neither cloud, shadow nor outside of the swath.  (H, W)"""


@dataclass(frozen=True, kw_only=True)
class DemoPlace:
    """What :func:`build_demo` wrote."""

    folder: Path
    catalog: Path
    """The root, ``catalog.json``."""
    area: Mapping[str, Any]
    """GeoJSON Polygon of the area of interest, EPSG:4326."""
    flood_time: datetime
    passes: tuple[DemoPass, ...]
    """In order of time."""

    @property
    def alert_since(self) -> datetime:
        """From when on alerts are wanted: a year of looks lies before, two usual passes and the flood after."""
        return self.flood_time - timedelta(days=20)

    def of_kind(self, kind: PassKind) -> tuple[DemoPass, ...]:
        """The passes of one kind."""
        return tuple(each for each in self.passes if each.kind == kind)


def build_demo(
    folder: Path,
    *,
    seed: int = 0,
    flood_time: datetime = FLOOD_TIME,
    only: Collection[PassKind] | None = None,
    progress: Progress | None = None,
) -> DemoPlace:
    """Write ``folder/catalog`` (and ``folder/area.geojson``) with the passes of the wanted kinds; all by default.

    The same seed and flood time give the same files, byte for byte. The catalog lists the passes of this call. Times
    of all passes are fixed against ``flood_time`` (aware UTC), which also sets the season.

    Raises:
        ValueError: ``flood_time`` is naive, or no pass is of a wanted kind.
    """
    if flood_time.tzinfo is None:
        raise ValueError("flood_time has no time zone; give an aware UTC time")
    plans = [plan for plan in PASSES if only is None or plan.kind in only]
    if not plans:
        raise ValueError(f"no pass is of a kind in {sorted(only or ())}")
    root = folder / "catalog"
    place = SimulatedPlace.make(seed)
    usual = place.terrain.water_at(0.0)
    passes, items = [], []
    for number, plan in enumerate(plans):
        write = _write_aerial if plan.aerial else _write_satellite
        done, item = write(root, place, plan, plan.time(flood_time), usual)
        write_item(root, item)
        passes.append(done)
        items.append(item)
        if progress is not None:
            progress(number + 1, len(plans))
    area = area_geometry()
    feature = {"type": "Feature", "properties": {"name": "simulated valley"}, "geometry": area}
    (folder / "area.geojson").write_text(json.dumps(feature, indent=2) + "\n", encoding="utf-8")
    catalog = write_catalog(root, items)
    return DemoPlace(folder=folder, catalog=catalog, area=area, flood_time=flood_time, passes=tuple(passes))


def _moment(place: SimulatedPlace, plan: PassPlan, time: datetime) -> Moment:
    number = PASSES.index(plan)
    return Moment(time=time, stage_m=plan.stage_m, moisture=plan.moisture, turbidity=plan.turbidity, seed=number)


def _write_satellite(
    root: Path, place: SimulatedPlace, plan: PassPlan, time: datetime, usual: BoolArray
) -> tuple[DemoPass, dict[str, Any]]:
    rng = np.random.default_rng([place.seed, 5, PASSES.index(plan)])
    moment = _moment(place, plan, time)
    ground = place.ground(moment, BANDS_GSD_M)
    clouds = make_clouds(rng, plan.cloud_share, moment.sun)
    inside = _swath(clouds.opacity.shape, plan.swath_edge)
    gain = float(1 + 0.025 * rng.standard_normal())
    item_id = f"SIM_32TNQ_{time:%Y%m%d}_L2A"
    to = item_folder(root, SATELLITE, item_id)
    to.mkdir(parents=True, exist_ok=True)

    assets: dict[str, Any] = {}
    coarse: dict[str, Float32Array] = {}
    fine: list[Float32Array] = []
    for band, gsd_m in BANDS_GSD_M.items():
        averaged = block_mean(ground.reflectance[band], round(gsd_m / PIXEL_M))
        seen = through_air(averaged, band, clouds, haze=plan.haze, gain=gain, rng=rng)
        valid = inside if gsd_m == 10 else inside[::2, ::2]
        numbers = to_l2a(seen, valid)
        path = write_geotiff(
            to / f"{band}.tif", numbers, EPSG, transform(gsd_m), nodata=L2A_NODATA, descriptions=[band]
        )
        assets[band] = _band_asset(path, band, gsd_m, numbers.shape)
        held = np.where(valid, np.clip(numbers * L2A_SCALE + L2A_OFFSET, 0, 1), 0).astype(np.float32)
        coarse[band] = held if gsd_m == 20 else block_mean(held, 2)
        fine.append(held if gsd_m == 10 else held.repeat(2, axis=0).repeat(2, axis=1))
    classes = scene_classes(coarse, block_mean(clouds.opacity, 2), block_mean(clouds.shadow, 2), inside[::2, ::2])
    path = write_geotiff(
        to / "scl.tif", classes, EPSG, transform(20), nodata=0, descriptions=["scl"], overview_resampling="nearest"
    )
    assets["scl"] = _class_asset(path, classes.shape)

    seen_percent = 100.0 * inside.mean()
    properties = {
        "platform": "simulated",
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "gsd": 10,
        "eo:cloud_cover": round(100.0 * float((clouds.cloud & inside).sum() / inside.sum()), 2),
        "proj:epsg": EPSG,
        "grid:code": GRID_CODE,
        "s2:processing_baseline": BASELINE,
        "s2:product_type": "S2MSI2A",
        "s2:datastrip_id": f"SIMULATED_S{time:%Y%m%dT%H%M%S}_N{BASELINE}",
        "s2:nodata_pixel_percentage": round(100.0 - float(seen_percent), 2),
        "s2:water_percentage": round(100.0 * float((classes == 6).mean()), 2),
        "s2:cloud_shadow_percentage": round(100.0 * float((classes == 3).mean()), 2),
        "vigie:sensor": "sentinel-2-l2a",
    }
    footprint = square_lonlat(WEST_M, NORTH_M, SIDE_M)
    item = make_item(
        item_id=item_id, collection=SATELLITE, geometry=footprint, time=time, properties=properties, assets=assets
    )
    water, flood = _truth(ground, usual, 4)
    done = DemoPass(
        item_id=item_id,
        collection=SATELLITE,
        kind=plan.kind,
        time=time,
        gsd_m=10.0,
        crs=f"EPSG:{EPSG}",
        transform=transform(10.0),
        bands=tuple(BANDS_GSD_M),
        reflectance=np.stack(fine),
        flood=flood,
        water=water,
        clear=np.asarray(~clouds.cloud & ~clouds.shaded & inside),
    )
    return done, item


def _write_aerial(
    root: Path, place: SimulatedPlace, plan: PassPlan, time: datetime, usual: BoolArray
) -> tuple[DemoPass, dict[str, Any]]:
    rng = np.random.default_rng([place.seed, 5, PASSES.index(plan)])
    bands = ("red", "green", "blue")
    ground = place.ground(_moment(place, plan, time), bands)
    row, column = _aerial_corner(place)
    side_px = round(AERIAL_SIDE_M / PIXEL_M)
    part = np.s_[row : row + side_px, column : column + side_px]
    gain = float(1 + 0.04 * rng.standard_normal())
    photo = np.stack([to_photo(ground.reflectance[band][part], gain=gain, rng=rng) for band in bands])
    west_m, north_m = WEST_M + column * PIXEL_M, NORTH_M - row * PIXEL_M
    item_id = f"SIM_AERIAL_{time:%Y%m%d}"
    to = item_folder(root, AERIAL, item_id)
    to.mkdir(parents=True, exist_ok=True)
    affine = transform(PIXEL_M, west_m=west_m, north_m=north_m)
    path = write_geotiff(to / "image.tif", photo, EPSG, affine, descriptions=list(bands))
    asset = {
        "href": "./image.tif",
        "type": GEOTIFF,
        "title": "Aerial photograph, red, green, blue",
        "roles": ["data"],
        "gsd": PIXEL_M,
        "eo:bands": [{"name": band, "common_name": band} for band in bands],
        "raster:bands": [{"data_type": "uint8", "spatial_resolution": PIXEL_M} for _ in bands],
        "proj:shape": [side_px, side_px],
        "proj:transform": list(affine),
        **file_fields(path),
    }
    properties = {
        "platform": "simulated-aircraft",
        "instruments": ["camera"],
        "gsd": PIXEL_M,
        "eo:cloud_cover": 0,
        "proj:epsg": EPSG,
        "vigie:sensor": "aerial-rgb",
    }
    item = make_item(
        item_id=item_id,
        collection=AERIAL,
        geometry=square_lonlat(west_m, north_m, AERIAL_SIDE_M),
        time=time,
        properties=properties,
        assets={"image": asset},
    )
    water, flood = _truth(ground, usual, 1)
    done = DemoPass(
        item_id=item_id,
        collection=AERIAL,
        kind=plan.kind,
        time=time,
        gsd_m=PIXEL_M,
        crs=f"EPSG:{EPSG}",
        transform=affine,
        bands=bands,
        reflectance=(photo / np.float32(255)).astype(np.float32),
        flood=flood[part],
        water=water[part],
        clear=np.ones((side_px, side_px), dtype=np.bool_),
    )
    return done, item


def _truth(ground: Ground, usual: BoolArray, factor: int) -> tuple[BoolArray, BoolArray]:
    """Water, and water where it is dry at the normal level, on a grid coarser by ``factor``: half of a pixel counts."""
    water = block_mean(ground.water.astype(np.float32), factor) >= 0.5
    flood = block_mean((ground.water & ~usual).astype(np.float32), factor) >= 0.5
    return np.asarray(water), np.asarray(flood)


def _aerial_corner(place: SimulatedPlace) -> tuple[int, int]:
    """North-west corner (row, column) of the flown square: on cell lines, with the village near its middle."""
    cell_px, last = round(640 / PIXEL_M), round((SIDE_M - AERIAL_SIDE_M) / 640)
    east_m, south_m = place.cover.village_m
    row, column = (min(max(round((at - AERIAL_SIDE_M / 2) / 640), 0), last) for at in (south_m, east_m))
    return row * cell_px, column * cell_px


def _swath(shape: tuple[int, ...], edge: bool) -> BoolArray:
    """True inside of the swath; with ``edge``, the north-west corner lies outside, in steps of 20 m."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]] // 2 * 2
    return np.asarray(columns + 0.25 * rows > (0.16 * shape[1] if edge else -1))


def _band_asset(path: Path, band: str, gsd_m: int, shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        "href": f"./{path.name}",
        "type": GEOTIFF,
        "title": f"{band}, {gsd_m} m",
        "roles": ["data", "reflectance"],
        "gsd": gsd_m,
        "eo:bands": [{"name": band, "common_name": band}],
        "raster:bands": [
            {
                "nodata": L2A_NODATA,
                "data_type": "uint16",
                "spatial_resolution": gsd_m,
                "scale": L2A_SCALE,
                "offset": L2A_OFFSET,
            }
        ],
        "proj:shape": list(shape),
        "proj:transform": list(transform(gsd_m)),
        **file_fields(path),
    }


def _class_asset(path: Path, shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        "href": f"./{path.name}",
        "type": GEOTIFF,
        "title": "Scene classification, 20 m",
        "roles": ["data"],
        "gsd": 20,
        "raster:bands": [{"nodata": 0, "data_type": "uint8", "spatial_resolution": 20}],
        "proj:shape": list(shape),
        "proj:transform": list(transform(20)),
        **file_fields(path),
    }
