"""A static STAC catalog of the simulated passes, as plain JSON: STAC 1.0.0, extended like Earth Search's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from shapely.geometry import shape

SATELLITE = "simulated-sentinel-2-l2a"
"""Collection of the satellite passes."""
AERIAL = "simulated-aerial-rgb"
"""Collection of the aerial passes."""

STAC_VERSION = "1.0.0"
_EXTENSION = "https://stac-extensions.github.io"
EXTENSIONS = {
    "eo": f"{_EXTENSION}/eo/v1.1.0/schema.json",
    "proj": f"{_EXTENSION}/projection/v1.1.0/schema.json",
    "raster": f"{_EXTENSION}/raster/v1.1.0/schema.json",
    "grid": f"{_EXTENSION}/grid/v1.1.0/schema.json",
    "file": f"{_EXTENSION}/file/v2.1.0/schema.json",
}
GEOTIFF = "image/tiff; application=geotiff; profile=cloud-optimized"
_NOTE = "SIMULATED: computed from a seed for Vigie's demo, not an observation."
_TITLES = {
    SATELLITE: "Simulated Sentinel-2 L2A passes of a river valley",
    AERIAL: "Simulated aerial photographs of a part of it",
}


def make_item(
    *,
    item_id: str,
    collection: str,
    geometry: Mapping[str, Any],
    time: datetime,
    properties: Mapping[str, Any],
    assets: Mapping[str, Any],
) -> dict[str, Any]:
    """One STAC Item, ready to be written."""
    published = time + timedelta(hours=6)
    used = ["eo", "proj", "raster", "file"] + (["grid"] if "grid:code" in properties else [])
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [EXTENSIONS[name] for name in used],
        "id": item_id,
        "collection": collection,
        "geometry": json.loads(json.dumps(geometry)),
        "bbox": list(shape(dict(geometry)).bounds),
        "properties": {
            "datetime": stac_time(time),
            "created": stac_time(published),
            "updated": stac_time(published),
            "title": f"Simulated pass of {time:%Y-%m-%d}",
            "description": _NOTE,
            "vigie:simulated": True,
            **properties,
        },
        "assets": dict(assets),
        "links": [
            {"rel": "root", "href": "../../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../collection.json", "type": "application/json"},
            {"rel": "collection", "href": "../collection.json", "type": "application/json"},
        ],
    }


def file_fields(path: Path) -> dict[str, Any]:
    """Size and checksum of an asset, by the file extension (a multihash: 0x12 sha2-256, 0x20 bytes)."""
    return {
        "file:size": path.stat().st_size,
        "file:checksum": "1220" + hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def write_item(folder: Path, item: Mapping[str, Any]) -> Path:
    """Write an Item beside its rasters, in ``folder/<collection>/<id>``."""
    path = item_folder(folder, str(item["collection"]), str(item["id"])) / f"{item['id']}.json"
    return _write(path, item)


def item_folder(folder: Path, collection: str, item_id: str) -> Path:
    """Where an Item and its rasters are."""
    return folder / collection / item_id


def write_catalog(folder: Path, items: Sequence[Mapping[str, Any]]) -> Path:
    """Write the collections of these Items, and last the root, so that a reader never finds a link to nothing."""
    collections = sorted({str(item["collection"]) for item in items}, reverse=True)
    for collection in collections:
        _write_collection(folder, collection, [item for item in items if item["collection"] == collection])
    root = {
        "type": "Catalog",
        "stac_version": STAC_VERSION,
        "id": "vigie-demo",
        "title": "A simulated river valley",
        "description": _NOTE,
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": "application/json"},
            *(
                {"rel": "child", "href": f"./{name}/collection.json", "type": "application/json"}
                for name in collections
            ),
        ],
    }
    return _write(folder / "catalog.json", root)


def stac_time(time: datetime) -> str:
    """RFC 3339 in UTC with ``Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _write_collection(folder: Path, name: str, items: Sequence[Mapping[str, Any]]) -> None:
    boxes = [item["bbox"] for item in items]
    times = sorted(str(item["properties"]["datetime"]) for item in items)
    extent = [min(box[0] for box in boxes), min(box[1] for box in boxes)]
    extent += [max(box[2] for box in boxes), max(box[3] for box in boxes)]
    document = {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "id": name,
        "title": _TITLES[name],
        "description": _NOTE,
        "license": "Apache-2.0",
        "extent": {"spatial": {"bbox": [extent]}, "temporal": {"interval": [[times[0], times[-1]]]}},
        "links": [
            {"rel": "root", "href": "../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../catalog.json", "type": "application/json"},
            *(
                {"rel": "item", "href": f"./{item['id']}/{item['id']}.json", "type": "application/geo+json"}
                for item in items
            ),
        ],
    }
    _write(folder / name / "collection.json", document)


def _write(path: Path, document: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A daemon may be reading the catalog while it grows.
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return part.replace(path)
