"""What to read and how much is tolerable: plain values, decided before any file is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.errors import BandMissing
from engine.sensors import Band, MaskSpec, Sensor, SkipReason


@dataclass(frozen=True, kw_only=True)
class BandSource:
    """Where one band's numbers are, and what they mean."""

    band: str
    """Common name."""
    href: str
    """Absolute local path, or http(s) URL: already approved, it is opened as it stands."""
    index: int
    """Band of the file, from 1."""
    scale: float
    """Reflectance per DN."""
    offset: float
    """Reflectance at DN 0."""
    nodata: float | None = None
    """DN that means no data even where the file declares none."""


@dataclass(frozen=True, kw_only=True)
class MaskSource:
    """Where a mask is, and what its values mean."""

    href: str
    """As :attr:`BandSource.href`."""
    index: int
    """Band of the file, from 1."""
    spec: MaskSpec
    """Meaning of its values."""


@dataclass(frozen=True, kw_only=True)
class ReadPlan:
    """One scene's bands and mask."""

    sensor: Sensor
    """Whose pixels these are."""
    bands: tuple[BandSource, ...]
    """Bands in the order in which batches hold them."""
    mask: MaskSource | None = None
    """Cloud and shadow, or transparency, where the scene has one."""
    name: str = ""
    """What is read, for messages: an item id or a file name."""


@dataclass(frozen=True, kw_only=True)
class ReadLimits:
    """What a raster may cost. Checked before a pixel is read, or between reads."""

    max_pixels: int = 20_000 * 20_000
    """Width times height of a file; a Sentinel-2 band has 10980 x 10980."""
    max_bands: int = 64
    """Bands of a file."""
    max_bytes: int = 4 * 2**30
    """Size of a local file; who hands out URLs checks theirs."""
    max_block_bytes: int = 256 * 2**20
    """One internal tile or strip, unpacked: it comes into memory whole."""
    timeout_s: float = 600.0
    """The whole read of one scene, the caller's work between batches not counted."""
    request_timeout_s: float = 30.0
    """One HTTP request."""
    retries: int = 2
    """HTTP requests tried again inside one read; the caller tries the whole read again by its own rules."""


@dataclass(kw_only=True)
class ReadReport:
    """What became of a scene's tiles. Complete once the reader is exhausted."""

    total: int = 0
    """Cells that meet both an area and the scene."""
    read: int = 0
    """Tiles handed out."""
    skipped: Counter[SkipReason] = field(default_factory=Counter)
    """Tiles with too little valid ground, by what most of their invalid pixels are."""
    epsg: int = 0
    """Zone of the grid."""
    gsd_m: float = 0.0
    """Pixel size on the grid, metres."""
    resampled: bool = False
    """Whether pixels were warped to the grid; else they are the file's own."""
    warnings: tuple[str, ...] = ()
    """What looks wrong without being an error."""
    seconds: float = 0.0
    """Time spent reading."""


@dataclass(frozen=True, kw_only=True)
class RasterInfo:
    """What a file says of itself."""

    path: str
    """As opened."""
    crs: str | None
    """``EPSG:n`` where it has a code, else WKT; None where it has none."""
    transform: tuple[float, float, float, float, float, float]
    """Affine a, b, c, d, e, f from (column, row) to coordinates of the CRS."""
    shape: tuple[int, int]
    """Rows, columns."""
    count: int
    """Bands."""
    dtypes: tuple[str, ...]
    """Numpy type names of the bands."""
    nodata: tuple[float | None, ...]
    """Declared nodata of the bands."""
    descriptions: tuple[str | None, ...]
    """Descriptions of the bands."""
    scales: tuple[float, ...]
    """Declared scales of the bands."""
    offsets: tuple[float, ...]
    """Declared offsets of the bands."""
    alpha: int | None
    """Band that is a transparency mask, from 1. NAIP files call their near-infrared band *alpha*: only a band whose
    values are 0 and 255 is one."""
    gsd_m: float
    """Pixel size at the centre, metres: the side of a square of the pixel's area."""
    bounds_lonlat: tuple[float, float, float, float]
    """West, south, east, north in EPSG:4326."""


def plan_of_file(info: RasterInfo, sensor: Sensor, bands: Sequence[str] | None = None) -> ReadPlan:
    """How to read a bare file as imagery of a sensor.

    Bands are found by their descriptions; a file without any is taken to hold the sensor's bands in their usual order.

    Raises:
        BandMissing: the file lacks one of the bands.
    """
    labels = [(text or "").strip() for text in info.descriptions]
    wanted = tuple(bands) if bands is not None else sensor.band_names
    sources = []
    for name in wanted:
        band = sensor.band(name)
        index = None if band is None else _index_in(labels, band, info.count)
        if index is None:
            if bands is None:
                continue
            raise BandMissing(
                f"{info.path} has no band {name!r} for sensor {sensor.name} "
                f"(bands: {', '.join(label or '?' for label in labels)}); choose another sensor with --sensor"
            )
        scale, offset = _declared_scaling(info, index, sensor)
        sources.append(
            BandSource(band=name, href=info.path, index=index, scale=scale, offset=offset, nodata=sensor.nodata)
        )
    if not sources:
        raise BandMissing(f"{info.path} has none of the bands of sensor {sensor.name}; choose another with --sensor")
    return ReadPlan(sensor=sensor, bands=tuple(sources), mask=_mask_in(info, labels, sensor), name=info.path)


def _index_in(labels: Sequence[str], band: Band, count: int) -> int | None:
    for index, label in enumerate(labels, start=1):
        if label in (band.name, *band.names):
            return index
    if any(labels):
        return None
    return band.index if band.index <= count else None


def _declared_scaling(info: RasterInfo, index: int, sensor: Sensor) -> tuple[float, float]:
    scale, offset = info.scales[index - 1], info.offsets[index - 1]
    if sensor.level == "dn8":
        return 1.0 / 255.0, 0.0
    return (scale, offset) if (scale, offset) != (1.0, 0.0) else (1e-4, 0.0)


def _mask_in(info: RasterInfo, labels: Sequence[str], sensor: Sensor) -> MaskSource | None:
    masks: Mapping[str, MaskSpec] = {spec.kind: spec for spec in sensor.masks}
    for spec in masks.values():
        for index, label in enumerate(labels, start=1):
            if label in spec.names:
                return MaskSource(href=info.path, index=index, spec=spec)
    if info.alpha is not None:
        return MaskSource(href=info.path, index=info.alpha, spec=MaskSpec(kind="alpha"))
    return None
