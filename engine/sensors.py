"""What a sensor is, as data: a new sensor is one entry in :data:`SENSORS`.

Nothing here names a satellite: a new platform of a known instrument is the same sensor (Sentinel-2C broke systems that
listed 2A and 2B).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from engine.errors import SensorUnknown

Level = Literal["l2a", "l1c", "dn8"]
MaskKind = Literal["scl", "cloud-probability", "qa60", "alpha"]
SkipReason = Literal["nodata", "cloud", "shadow", "saturated"]
"""Why ground is not valid: the closed set that tiles are skipped for."""

OVERRIDE_PROPERTY = "vigie:sensor"
"""Item property by which a private catalog may name the sensor itself."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """One band of a sensor."""

    name: str
    """Common name (STAC ``eo:common_name``)."""
    gsd_m: float
    """Pixel size as delivered, metres."""
    asset_keys: tuple[str, ...] = ()
    """Keys of the asset that holds it, tried in this order."""
    names: tuple[str, ...] = ()
    """Other names in band lists and in band descriptions, e.g. ``B04``."""
    index: int = 1
    """Position in a file that holds all bands and names none, from 1."""


@dataclass(frozen=True, kw_only=True)
class MaskSpec:
    """How a sensor says which pixels are clear ground."""

    kind: MaskKind
    """What the values mean."""
    asset_keys: tuple[str, ...] = ()
    """Keys of the asset that holds it, tried in this order."""
    names: tuple[str, ...] = ()
    """Names in band lists and band descriptions, for a file that holds it beside the data."""
    classes: tuple[tuple[int, SkipReason], ...] = ()
    """Class values that are not clear ground, and why (``scl``)."""
    threshold_percent: float = 40.0
    """A pixel more probably cloudy than this is cloud (``cloud-probability``)."""
    grow_m: float = 0.0
    """Cloud and shadow reach this much further than marked, metres."""


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """One kind of imagery that Vigie can read."""

    name: str
    """Key in :data:`SENSORS`."""
    description: str
    """One line for people."""
    family: str
    """Model family that scores it: ``sentinel-2`` or ``aerial``."""
    level: Level
    """``l2a`` surface and ``l1c`` top-of-atmosphere reflectance as integers; ``dn8``: 8-bit brightness, 255 is 1."""
    bands: tuple[Band, ...]
    """Bands in the order of a file that holds them all."""
    gsd_m: float
    """Pixel size of its finest bands, metres."""
    gsd_range_m: tuple[float, float]
    """Pixel sizes of the cell grid that it is read at: finest, coarsest, metres."""
    collections: tuple[str, ...] = ()
    """STAC collection ids that hold it."""
    masks: tuple[MaskSpec, ...] = ()
    """Masks, best first: the first that a scene has is used."""
    nodata: float | None = None
    """Value that means no data even where a file declares none."""
    edge_m: float = 0.0
    """Ground this near to nodata is not trusted, metres: resampled borders carry values such as 1."""

    def band(self, name: str) -> Band | None:
        """The band of that common name, where the sensor has one."""
        return next((band for band in self.bands if band.name == name), None)

    @property
    def band_names(self) -> tuple[str, ...]:
        """Common names of all bands."""
        return tuple(band.name for band in self.bands)


# Scene classification of Sen2Cor (Sentinel-2 L2A Algorithm Theoretical Basis Document, table of SCL values). Left as
# clear: 2 dark area, 4 vegetation, 5 bare, 6 water, 7 unclassified, 11 snow. Dark areas hold terrain shade but also
# flooded soil, which is what we look for.
_SCL = MaskSpec(
    kind="scl",
    asset_keys=("scl", "SCL", "SCL_20m"),
    names=("SCL", "scl"),
    classes=((0, "nodata"), (1, "saturated"), (3, "shadow"), (8, "cloud"), (9, "cloud"), (10, "cloud")),
    grow_m=20.0,
)

# (common name, ESA name, pixel size) in the order of a product's band list.
_MSI: tuple[tuple[str, str, float], ...] = (
    ("coastal", "B01", 60.0),
    ("blue", "B02", 10.0),
    ("green", "B03", 10.0),
    ("red", "B04", 10.0),
    ("rededge1", "B05", 20.0),
    ("rededge2", "B06", 20.0),
    ("rededge3", "B07", 20.0),
    ("nir", "B08", 10.0),
    ("nir08", "B8A", 20.0),
    ("nir09", "B09", 60.0),
    ("cirrus", "B10", 60.0),
    ("swir16", "B11", 20.0),
    ("swir22", "B12", 20.0),
)


def _msi_bands(without: tuple[str, ...] = ()) -> tuple[Band, ...]:
    chosen = [entry for entry in _MSI if entry[0] not in without]
    return tuple(
        Band(
            name=common,
            gsd_m=gsd_m,
            asset_keys=(common, name, f"{name}_{gsd_m:.0f}m"),
            names=(name, name.replace("B0", "B")),
            index=index,
        )
        for index, (common, name, gsd_m) in enumerate(chosen, start=1)
    )


def _aerial_bands(*names: str, gsd_m: float) -> tuple[Band, ...]:
    keys = ("image", "visual", "data", "analytic")
    return tuple(
        Band(name=name, gsd_m=gsd_m, asset_keys=keys, names=(name.capitalize(), name.upper()), index=index)
        for index, name in enumerate(names, start=1)
    )


_AERIAL_RANGE_M = (0.3125, 2.5)

SENSORS: Mapping[str, Sensor] = MappingProxyType(
    {
        sensor.name: sensor
        for sensor in (
            Sensor(
                name="sentinel-2-l2a",
                description="Sentinel-2 MSI, surface reflectance, scene classification",
                family="sentinel-2",
                level="l2a",
                bands=_msi_bands(without=("cirrus",)),
                gsd_m=10.0,
                gsd_range_m=(10.0, 10.0),
                collections=("sentinel-2-l2a", "sentinel-2-c1-l2a", "sentinel-s2-l2a-cogs", "sentinel-s2-l2a"),
                masks=(_SCL,),
                nodata=0.0,
                edge_m=10.0,
            ),
            Sensor(
                name="sentinel-2-l1c",
                description="Sentinel-2 MSI, top-of-atmosphere reflectance, cloud band where given",
                family="sentinel-2",
                level="l1c",
                bands=_msi_bands(),
                gsd_m=10.0,
                gsd_range_m=(10.0, 10.0),
                collections=("sentinel-2-l1c", "sentinel-s2-l1c"),
                masks=(
                    MaskSpec(
                        kind="cloud-probability",
                        asset_keys=("cloud-probability", "cloud"),
                        names=("probability", "cloud_probability"),
                        grow_m=20.0,
                    ),
                    MaskSpec(kind="qa60", asset_keys=("QA60", "qa60"), names=("QA60",), grow_m=20.0),
                ),
                nodata=0.0,
                edge_m=10.0,
            ),
            Sensor(
                name="naip",
                description="NAIP aerial imagery, red, green, blue, near infrared",
                family="aerial",
                level="dn8",
                bands=_aerial_bands("red", "green", "blue", "nir", gsd_m=0.6),
                gsd_m=0.6,
                gsd_range_m=_AERIAL_RANGE_M,
                collections=("naip",),
            ),
            Sensor(
                name="aerial-rgb",
                description="Aerial or very high resolution imagery, red, green, blue",
                family="aerial",
                level="dn8",
                bands=_aerial_bands("red", "green", "blue", gsd_m=0.5),
                gsd_m=0.5,
                gsd_range_m=_AERIAL_RANGE_M,
                collections=("aerial-rgb", "openaerialmap"),
                masks=(MaskSpec(kind="alpha", names=("alpha", "Alpha")),),
            ),
            Sensor(
                name="aerial-rgbn",
                description="Aerial or very high resolution imagery, red, green, blue, near infrared",
                family="aerial",
                level="dn8",
                bands=_aerial_bands("red", "green", "blue", "nir", gsd_m=0.5),
                gsd_m=0.5,
                gsd_range_m=_AERIAL_RANGE_M,
                collections=("aerial-rgbn",),
            ),
        )
    }
)


def sensor_for(
    collection: str | None,
    properties: Mapping[str, Any],
    assets: Mapping[str, Mapping[str, Any]],
    *,
    override: str | None = None,
) -> Sensor:
    """The sensor of a STAC Item.

    Args:
        collection: STAC collection id.
        properties: the Item's properties.
        assets: the Item's assets.
        override: the name that the configuration gives, which beats all else.

    Raises:
        SensorUnknown: nothing in the table matches.
    """
    # 1. The configuration, 2. the Item itself, 3. the collection id, 4. what the Item says it was made by and holds.
    named = override or properties.get(OVERRIDE_PROPERTY)
    if named is not None:
        return named_sensor(str(named))
    for sensor in SENSORS.values():
        if collection in sensor.collections:
            return sensor
    instruments = {str(name).lower() for name in _list(properties.get("instruments"))}
    if "msi" in instruments and "sentinel" in str(properties.get("constellation", "")).lower().replace(" ", "-"):
        surface = any(key in assets for key in _SCL.asset_keys) or "MSIL2A" in str(properties.get("s2:product_uri"))
        return SENSORS["sentinel-2-l2a" if surface else "sentinel-2-l1c"]
    gsd_m = properties.get("gsd")
    if isinstance(gsd_m, int | float) and 0 < gsd_m <= _AERIAL_RANGE_M[1]:
        held = {name for asset in assets.values() for entry in band_list(asset) for name in band_names(entry)}
        if {"red", "green", "blue"} <= held:
            return SENSORS["aerial-rgbn" if "nir" in held else "aerial-rgb"]
    raise SensorUnknown(
        f"no sensor matches an item of collection {collection!r} (instruments {sorted(instruments) or 'not given'}, "
        f"assets {sorted(assets)[:8]}); known are {', '.join(SENSORS)}. "
        f"Name one in the item's property {OVERRIDE_PROPERTY!r} or leave the collection out of the configuration"
    )


def named_sensor(name: str) -> Sensor:
    """The sensor of that name.

    Raises:
        SensorUnknown: the table has none.
    """
    if name not in SENSORS:
        raise SensorUnknown(f"there is no sensor {name!r}; known are {', '.join(SENSORS)}")
    return SENSORS[name]


def sensor_of_file(
    *, count: int, dtypes: Sequence[str], descriptions: Sequence[str | None], alpha: int | None, path: str = "the file"
) -> Sensor:
    """The sensor of a bare file, by its bands alone.

    Args:
        count: how many bands it has.
        dtypes: numpy type names of the bands.
        descriptions: band descriptions, None where a band has none.
        alpha: index of a band that is a transparency mask, from 1; see :class:`engine.read_plan.RasterInfo`.
        path: named in the error.

    Raises:
        SensorUnknown: the bands fit no sensor, or more than one.
    """
    eight_bit = set(dtypes) == {"uint8"}
    if eight_bit and count - (alpha is not None) == 3:
        return SENSORS["aerial-rgb"]
    if eight_bit and count == 4:
        return SENSORS["aerial-rgbn"]
    named = {str(text) for text in descriptions if text}
    for sensor in (SENSORS["sentinel-2-l1c"], SENSORS["sentinel-2-l2a"]):
        wanted = ("red", "nir", "swir16")
        if all(named & {band.name, *band.names} for band in sensor.bands if band.name in wanted):
            # Only L1C carries the cirrus band; only L2A a scene classification.
            if named & {"SCL", "scl"} or (sensor.name.endswith("l1c") and not named & {"B10", "cirrus"}):
                continue
            return sensor
    if named & {"SCL", "scl"}:
        return SENSORS["sentinel-2-l2a"]
    if not eight_bit and count >= 13:
        return SENSORS["sentinel-2-l1c"]
    raise SensorUnknown(
        f"{path} has {count} bands of {', '.join(sorted(set(dtypes)))}, which fit no sensor; "
        f"name one with --sensor: {', '.join(SENSORS)}"
    )


def band_list(asset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The band entries of an asset: ``eo:bands`` (STAC 1.0) or ``bands`` (STAC 1.1); empty where it has none."""
    for key in ("eo:bands", "bands"):
        entries = [entry for entry in _list(asset.get(key)) if isinstance(entry, Mapping)]
        if entries:
            return entries
    return []


def band_names(entry: Mapping[str, Any]) -> set[str]:
    """All names that a band entry gives its band."""
    keys = ("common_name", "eo:common_name", "name", "description")
    return {str(entry[key]) for key in keys if entry.get(key)}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
