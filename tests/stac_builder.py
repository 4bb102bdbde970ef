"""Makes STAC Items and catalogs: simple ones from arguments, true ones for the georeferenced development imagery."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.warp import transform_geom
from shapely.geometry import box, mapping

COG = "image/tiff; application=geotiff; profile=cloud-optimized"
EXTENSIONS = [
    "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
    "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
]

# Band name and STAC common name, in the order of both Sentinel-2 files.
SENTINEL_2_BANDS = (
    ("B01", "coastal"),
    ("B02", "blue"),
    ("B03", "green"),
    ("B04", "red"),
    ("B05", "rededge"),
    ("B06", "rededge"),
    ("B07", "rededge"),
    ("B08", "nir"),
    ("B8A", "nir08"),
    ("B09", "nir09"),
    ("B10", "cirrus"),
    ("B11", "swir16"),
    ("B12", "swir22"),
)
AERIAL_BANDS = (("Red", "red"), ("Green", "green"), ("Blue", "blue"), ("NIR", "nir"))

# Times as the list that came with the images gives them. It names no platform: one pair of passes is five days apart,
# so both satellites took part; which took which is assumed.
LAHINCH_TIMES = {
    "2017-09-18": ("sentinel-2b", "2017-09-18T11:46:24.200Z"),
    "2017-09-21": ("sentinel-2b", "2017-09-21T11:53:55.460Z"),
    "2017-09-26": ("sentinel-2a", "2017-09-26T11:55:30.080Z"),
    "2017-10-08": ("sentinel-2b", "2017-10-08T11:43:47.460Z"),
    "2017-10-18": ("sentinel-2b", "2017-10-18T11:43:48.460Z"),
}
# The tornado struck Joplin on 2011-05-22; the days of the images are not stated by their source.
JOPLIN_TIMES = {"pre": "2011-05-01T17:00:00Z", "post": "2011-05-24T17:00:00Z"}
# The day of the Sentinel-2 image is its metadata's, the hour that of the passes there.
SPAIN_TIME = "2019-09-18T10:56:29Z"


def item(
    item_id: str,
    *,
    collection: str,
    when: str | None,
    geometry: Mapping[str, Any] | None,
    assets: Mapping[str, Any] | None = None,
    **properties: Any,
) -> dict[str, Any]:
    """A STAC Item as plain JSON; further ``properties`` by keyword, ``__`` for ``:`` (``eo__cloud_cover=12``)."""
    named = {key.replace("__", ":"): value for key, value in properties.items()}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": EXTENSIONS,
        "id": item_id,
        "collection": collection,
        "geometry": None if geometry is None else json.loads(json.dumps(geometry)),
        **({} if geometry is None else {"bbox": _bbox(geometry)}),
        "properties": {"datetime": when, **named},
        "assets": dict(assets or {}),
        "links": [],
    }


def collection(collection_id: str, items: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """A STAC Collection as plain JSON, its extent that of ``items``."""
    boxes = [entry["bbox"] for entry in items if entry.get("bbox")] or [[-180.0, -90.0, 180.0, 90.0]]
    lows = [min(values) for values in list(zip(*boxes, strict=True))[:2]]
    highs = [max(values) for values in list(zip(*boxes, strict=True))[2:]]
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": collection_id,
        "description": f"{collection_id}, made for tests",
        "license": "other",
        "extent": {"spatial": {"bbox": [[*lows, *highs]]}, "temporal": {"interval": [["2000-01-01T00:00:00Z", None]]}},
        "links": [],
    }


def square(lon: float, lat: float, side_degrees: float = 0.1) -> dict[str, Any]:
    """A square around a point, as GeoJSON."""
    half = side_degrees / 2.0
    return json.loads(json.dumps(mapping(box(lon - half, lat - half, lon + half, lat + half))))


def write_static_catalog(root: Path, items: Sequence[Mapping[str, Any]]) -> Path:
    """Write a static catalog of ``items``, one folder per collection, relative links; returns its ``catalog.json``."""
    by_collection: dict[str, list[Mapping[str, Any]]] = {}
    for entry in items:
        by_collection.setdefault(str(entry["collection"]), []).append(entry)
    children = []
    for name, members in by_collection.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        links = [{"rel": "root", "href": "../catalog.json"}, {"rel": "parent", "href": "../catalog.json"}]
        for member in members:
            (folder / f"{member['id']}.json").write_text(json.dumps({**member, "links": []}))
            links.append({"rel": "item", "href": f"./{member['id']}.json", "type": "application/geo+json"})
        (folder / "collection.json").write_text(json.dumps({**collection(name, members), "links": links}))
        children.append({"rel": "child", "href": f"./{name}/collection.json", "type": "application/json"})
    path = root / "catalog.json"
    document = {"type": "Catalog", "stac_version": "1.0.0", "id": "static", "description": "made for tests"}
    path.write_text(json.dumps({**document, "links": [{"rel": "root", "href": "./catalog.json"}, *children]}))
    return path


def development_items(data_dir: Path, href_base: str) -> list[dict[str, Any]]:
    """Items of every georeferenced file of the development imagery; hrefs are ``href_base/<path below data_dir>``."""
    found = [lahinch_item(data_dir, path, href_base) for path in sorted((data_dir / "lahinch/S2").glob("*.tif"))]
    found.append(spain_item(data_dir, data_dir / "sen1floods11/Spain_7370579_S2Hand.tif", href_base))
    found += [naip_item(data_dir, path, href_base) for path in sorted((data_dir / "naip").glob("*.tif"))]
    for when in ("pre", "post"):
        paths = sorted((data_dir / "joplin" / when).glob("*.tif"))
        found += [joplin_item(data_dir, path, href_base, when) for path in paths]
    return found


def lahinch_item(data_dir: Path, path: Path, href_base: str) -> dict[str, Any]:
    """One of Lahinch's five dates: 13 bands of L1C and, 15th, the cloud probability."""
    platform, when = LAHINCH_TIMES[path.stem]
    bands = [*SENTINEL_2_BANDS, ("QA60", None), ("probability", None)]
    asset = _asset(path, data_dir, href_base, bands)
    # Reflectance times 10 000, as L1C before baseline 04.00: no offset.
    for band in asset["raster:bands"][:13]:
        band.update(scale=0.0001, offset=0.0)
    return _file_item(
        f"lahinch-{path.stem}",
        path,
        collection="lahinch-l1c",
        when=when,
        assets={"data": asset},
        platform=platform,
        constellation="sentinel-2",
        instruments=["msi"],
        s2__processing_baseline="02.05",
        s2__product_type="S2MSI1C",
        vigie__sensor="sentinel-2-l1c",
    )


def spain_item(data_dir: Path, path: Path, href_base: str) -> dict[str, Any]:
    """The Sen1Floods11 chip: 13 bands of L1C over the flood of September 2019 in Spain."""
    asset = _asset(path, data_dir, href_base, SENTINEL_2_BANDS)
    for band in asset["raster:bands"]:
        band.update(scale=0.0001, offset=0.0, nodata=0)
    return _file_item(
        "sen1floods11-spain-7370579",
        path,
        collection="sen1floods11",
        when=SPAIN_TIME,
        assets={"data": asset},
        platform="sentinel-2b",
        constellation="sentinel-2",
        instruments=["msi"],
        s2__processing_baseline="02.08",
        s2__product_type="S2MSI1C",
        vigie__sensor="sentinel-2-l1c",
    )


def naip_item(data_dir: Path, path: Path, href_base: str) -> dict[str, Any]:
    """A NAIP image; its name ends in the day it was flown, the hour is assumed as in other NAIP catalogs."""
    day = next(part for part in path.stem.replace("-", "_").split("_") if len(part) == 8 and part.startswith("20"))
    return _file_item(
        path.stem,
        path,
        collection="naip",
        when=f"{day[:4]}-{day[4:6]}-{day[6:]}T16:00:00Z",
        assets={"image": _asset(path, data_dir, href_base, AERIAL_BANDS)},
    )


def joplin_item(data_dir: Path, path: Path, href_base: str, when: str) -> dict[str, Any]:
    """A tile of Joplin before (``pre``) or after (``post``) the tornado."""
    return _file_item(
        f"joplin-{when}-{path.stem}",
        path,
        collection="joplin",
        when=JOPLIN_TIMES[when],
        assets={"image": _asset(path, data_dir, href_base, AERIAL_BANDS[:3])},
        vigie__sensor="aerial-rgb",
    )


def _asset(path: Path, data_dir: Path, href_base: str, bands: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
    with _open(path) as dataset:
        kinds = dataset.dtypes
    return {
        "href": f"{href_base.rstrip('/')}/{path.relative_to(data_dir).as_posix()}",
        "type": COG,
        "roles": ["data"],
        "file:size": path.stat().st_size,
        "eo:bands": [{"name": name, **({"common_name": common} if common else {})} for name, common in bands],
        "raster:bands": [{"data_type": kind} for kind in kinds],
    }


def _file_item(item_id: str, path: Path, **fields: Any) -> dict[str, Any]:
    with _open(path) as dataset:
        crs, bounds, transform = dataset.crs, dataset.bounds, dataset.transform
        geometry = transform_geom(crs, "EPSG:4326", mapping(box(*bounds)), precision=7)
        shape = [dataset.height, dataset.width]
    scale = 1.0 if crs.is_projected else 111_320.0 * math.cos(math.radians((bounds.bottom + bounds.top) / 2.0))
    return item(
        item_id,
        geometry=geometry,
        gsd=round(abs(transform.a) * scale, 3),
        proj__epsg=crs.to_epsg(),
        proj__shape=shape,
        proj__transform=list(transform)[:6],
        **fields,
    )


def _open(path: Path) -> rasterio.DatasetReader:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path)


def _bbox(geometry: Mapping[str, Any]) -> list[float]:
    def points(value: Any) -> Iterable[tuple[float, float]]:
        if value and isinstance(value[0], (int, float)):
            yield value[0], value[1]
        else:
            for part in value:
                yield from points(part)

    lons, lats = zip(*points(geometry["coordinates"]), strict=True)
    return [min(lons), min(lats), max(lons), max(lats)]
