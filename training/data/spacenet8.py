"""The layout of SpaceNet 8's training tarballs: high-resolution images before and after floods, labelled objects.

::

    AOI/PRE-event/*.tif            8-bit RGB GeoTIFFs, EPSG:4326, about 1300 x 1300 px of 0.3 to 0.8 m
    AOI/POST-event/*.tif           the same ground after, often of another pixel size
    AOI/annotations/*.geojson      buildings (polygons) and roads (lines), EPSG:4326; ``flooded`` is yes where flooded
    AOI/*_label_image_mapping.csv  label, pre-event image, post-event image 1, post-event image 2 (may be empty)

AOI is Germany_Training_Public or Louisiana-East_Training_Public; the folder that is opened is one of them or holds
them. Everything is read at half resolution, as the ODEED paper does (Le Bellier & Audebert 2024), and on one ground
grid (the UTM zone of the image before), so that both looks and the labels coincide pixel by pixel.
Source: Hänsch et al., *SpaceNet 8 - the detection of flooded roads and buildings*, CVPR Workshops 2022, and the layout
that the challenge's baseline documents.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import Transformer
from shapely.geometry import shape

from training.data.digests import digest_of_files
from training.data.geotiffs import read_on, window_of
from training.data.pool import PixelArray
from training.data.splits import held_out
from training.errors import TrainingDataInvalid

if TYPE_CHECKING:
    # Rasters are read by few layouts alone; training works where GDAL is not installed.
    from engine.raster.window import GridWindow

BoolArray = npt.NDArray[np.bool_]

MAPPING = "_label_image_mapping.csv"
LABEL, BEFORE, AFTER = "label", "pre-event image", ("post-event image 1", "post-event image 2")
SHRINK = 2
"""File pixels along a side of a pixel that is read: half resolution."""
ROAD_M = 6.0
"""Width at which a road's line is drawn, metres; the labels have none."""


@dataclass(frozen=True, kw_only=True)
class SpaceNet8Tile:
    """One place: its image before, one or two images after, and its labels."""

    id: str
    """``AOI/label``: what splits go by."""
    aoi: str
    before: Path
    after: tuple[Path, ...]
    labels: Path


@dataclass(frozen=True, kw_only=True)
class SpaceNet8Looks:
    """One place, read at half resolution onto one grid."""

    gsd_m: float
    before: PixelArray
    """uint8, 0 in all bands where there is no ground.  (H, W, 3)"""
    after: tuple[PixelArray, ...]
    """Each as ``before``."""
    flooded: BoolArray
    """Pixels of buildings and roads that are labelled flooded.  (H, W)"""
    dry: BoolArray
    """Pixels of buildings and roads that are not.  (H, W)"""


@dataclass(frozen=True, kw_only=True)
class SpaceNet8Folder:
    """All places of one or several areas of interest, in the order of the mappings."""

    root: Path
    tiles: tuple[SpaceNet8Tile, ...]

    @classmethod
    def open(cls, root: Path) -> SpaceNet8Folder:
        """Read the mappings and check that each place's files are there.

        Raises:
            TrainingDataInvalid: no mapping, a mapping without a column or row, or a file that is not there.
        """
        mappings = sorted([*root.glob(f"*{MAPPING}"), *root.glob(f"*/*{MAPPING}")])
        if not mappings:
            raise TrainingDataInvalid(
                f"no *{MAPPING} in {root} or one folder below; give an unpacked area of SpaceNet 8, or their parent"
            )
        tiles = tuple(tile for mapping in mappings for tile in _tiles_of(mapping))
        return cls(root=root, tiles=tiles)

    @property
    def aois(self) -> tuple[str, ...]:
        """Names of the areas of interest, sorted."""
        return tuple(sorted({tile.aoi for tile in self.tiles}))

    def split(self, share: float) -> tuple[tuple[SpaceNet8Tile, ...], tuple[SpaceNet8Tile, ...]]:
        """Places to train on, and the ``share`` that is held out, by a hash of their id: never two patches of one."""
        train = tuple(tile for tile in self.tiles if not held_out(tile.id, share))
        return train, tuple(tile for tile in self.tiles if held_out(tile.id, share))

    def digest(self) -> str:
        """SHA-256 of mappings, images and labels."""
        files = {*self.root.glob(f"*{MAPPING}"), *self.root.glob(f"*/*{MAPPING}")}
        for tile in self.tiles:
            files |= {tile.before, *tile.after, tile.labels}
        return digest_of_files(self.root, files)


def read_before(tile: SpaceNet8Tile) -> PixelArray:
    """The image before, at half resolution.  uint8 (H, W, 3)

    Raises:
        TrainingDataInvalid: the file cannot be read, or has fewer than three bands of 8 bits.
    """
    return _rgb(tile.before, window_of(tile.before, shrink=SHRINK))


def read_looks(tile: SpaceNet8Tile) -> SpaceNet8Looks:
    """Both looks and the labels, at half resolution.

    Raises:
        TrainingDataInvalid: a file cannot be read, or has fewer than three bands of 8 bits.
    """
    window = window_of(tile.before, shrink=SHRINK)
    features = _features(tile.labels)
    return SpaceNet8Looks(
        gsd_m=window.gsd_m,
        before=_rgb(tile.before, window),
        after=tuple(_rgb(path, window) for path in tile.after),
        flooded=_drawn((each for each in features if _is_flooded(each)), window),
        dry=_drawn((each for each in features if not _is_flooded(each)), window),
    )


def _rgb(path: Path, window: GridWindow) -> PixelArray:
    pixels = read_on(path, window)
    if pixels.shape[2] < 3 or pixels.dtype != np.uint8:
        raise TrainingDataInvalid(f"{path} has {pixels.shape[2]} bands of {pixels.dtype}; 3 of uint8 are expected")
    return np.ascontiguousarray(pixels[:, :, :3])


def _tiles_of(mapping: Path) -> Iterable[SpaceNet8Tile]:
    with mapping.open(newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    missing = {LABEL, BEFORE, AFTER[0]} - set(rows[0] if rows else ())
    if missing:
        raise TrainingDataInvalid(f"{mapping} has no rows or lacks the columns {sorted(missing)}")
    folder, aoi = mapping.parent, mapping.name.removesuffix(MAPPING)
    for row in rows:
        label, after = row[LABEL].strip(), [(row.get(column) or "").strip() for column in AFTER]
        tile = SpaceNet8Tile(
            id=f"{aoi}/{Path(label).stem}",
            aoi=aoi,
            before=folder / "PRE-event" / row[BEFORE].strip(),
            after=tuple(folder / "POST-event" / name for name in after if name),
            labels=folder / "annotations" / label,
        )
        for path in (tile.before, *tile.after, tile.labels):
            if not path.is_file():
                raise TrainingDataInvalid(f"{mapping} names {path.name!r}, but {path} is not there")
        yield tile


def _features(labels: Path) -> list[dict[str, Any]]:
    """Buildings and roads; other features are notes of the annotators."""
    try:
        found = json.loads(labels.read_text(encoding="utf-8"))["features"]
        return [each for each in found if each.get("geometry") and _is_object(each["properties"])]
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingDataInvalid(f"{labels} is no GeoJSON of labelled features: {error!r}") from error


def _is_object(properties: dict[str, Any]) -> bool:
    return properties.get("building") is not None or properties.get("highway") is not None


def _is_flooded(feature: dict[str, Any]) -> bool:
    return feature["properties"].get("flooded") in ("yes", 1, True)


def _drawn(features: Iterable[dict[str, Any]], window: GridWindow) -> BoolArray:
    """Pixels of a window of the grid whose centres lie in polygons and on roads of EPSG:4326.  (H, W)"""
    project = Transformer.from_crs("EPSG:4326", f"EPSG:{window.epsg}", always_xy=True).transform
    west, _, _, north = window.bounds
    xs = west + (np.arange(window.width) + 0.5) * window.gsd_m
    ys = north - (np.arange(window.height) + 0.5) * window.gsd_m
    drawn = np.zeros((window.height, window.width), dtype=np.bool_)
    for feature in features:
        ground = shapely.transform(shape(feature["geometry"]), lambda lonlat: np.stack(project(*lonlat.T), axis=1))
        if ground.geom_type.endswith("LineString"):
            ground = ground.buffer(ROAD_M / 2)
        shapely.prepare(ground)
        left, low, right, high = ground.bounds
        cols = slice(*np.searchsorted(xs, (left, right)))
        rows = slice(*np.searchsorted(-ys, (-high, -low)))
        drawn[rows, cols] |= shapely.contains_xy(ground, *np.meshgrid(xs[cols], ys[rows]))
    return drawn
