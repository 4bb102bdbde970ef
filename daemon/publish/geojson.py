"""Alerts as GeoJSON files (RFC 7946): one for each message, and one map of all incidents.

``incidents.geojson`` holds the newest message of each incident and is replaced whole, so that a map (QGIS, a web
page) can open it at any moment. Coordinates are WGS 84 lon/lat, exterior rings anticlockwise, cut at 180°.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from daemon.publish.feature import bounding_box, feature_of, file_name, revision_name
from daemon.publish.sinks import Message

COLLECTION = "incidents.geojson"
MAX_INCIDENTS = 1_000
"""Incidents on the map, the latest by sensing time; the files of older ones stay."""

WriteWhole = Callable[[Path, bytes], None]


class GeoJsonWriter:
    """Writes ``<incident>/<sequence>-<id>.geojson`` and the map of all incidents."""

    def __init__(self, write_whole: WriteWhole) -> None:
        self._write_whole = write_whole

    def write(self, folder: Path, message: Message) -> None:
        """Write the message's own file, then the map."""
        feature = with_bounding_box(feature_of(message))
        incident = feature["properties"]["incident"]
        self._write_whole(folder / file_name(incident) / f"{revision_name(feature)}.geojson", _encoded(feature))
        path = folder / COLLECTION
        shown = json.loads(path.read_bytes())["features"] if path.exists() else []
        self._write_whole(path, _encoded(collection([*shown, feature])))


def with_bounding_box(feature: Mapping[str, Any]) -> dict[str, Any]:
    """The Feature with ``bbox``."""
    return {**feature, "bbox": bounding_box(feature["geometry"])}


def collection(features: list[dict[str, Any]]) -> dict[str, Any]:
    """The newest Feature of each incident as a FeatureCollection, in order of sensing time."""
    newest: dict[str, dict[str, Any]] = {}
    for feature in sorted(features, key=lambda each: each["properties"]["sequence"]):
        newest[feature["properties"]["incident"]] = feature
    ordered = sorted(newest.values(), key=lambda each: (each["properties"]["sensing_time"], each["id"]))
    return {"type": "FeatureCollection", "features": ordered[-MAX_INCIDENTS:]}


def _encoded(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
