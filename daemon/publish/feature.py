"""An alert's Feature as the file formats need it: its place among files, its bounding box, its rings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from shapely.geometry import shape

from daemon.publish.sinks import Message

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def feature_of(message: Message) -> dict[str, Any]:
    """The GeoJSON Feature that a message carries."""
    feature: dict[str, Any] = json.loads(message.value)
    return feature


def file_name(text: str) -> str:
    """A name that is safe in every file system: the text itself where it is, else a digest of it."""
    return text if _FILE_NAME.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest()[:32]


def revision_name(feature: Mapping[str, Any]) -> str:
    """Name of the files of one message: revisions of an incident sort by it."""
    return f"{feature['properties']['sequence']:010d}-{file_name(feature['id'])}"


def sensing_time(feature: Mapping[str, Any]) -> datetime:
    """When the ground was seen, aware."""
    return datetime.fromisoformat(feature["properties"]["sensing_time"])


def exterior_rings(geometry: Mapping[str, Any]) -> tuple[Sequence[Sequence[float]], ...]:
    """Exterior ring of each part, lon/lat."""
    polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    return tuple(polygon[0] for polygon in polygons)


def bounding_box(geometry: Mapping[str, Any]) -> list[float]:
    """West, south, east, north in degrees (RFC 7946, section 5).

    Of a geometry that was cut at 180° west is larger than east (section 5.2).
    """
    west, south, east, north = shape(dict(geometry)).bounds
    if west == -180.0 and east == 180.0 and geometry["type"] == "MultiPolygon":
        parts = [shape({"type": "Polygon", "coordinates": part}).bounds for part in geometry["coordinates"]]
        eastern = [part[0] for part in parts if part[0] >= 0.0]
        western = [part[2] for part in parts if part[2] <= 0.0]
        if len(eastern) + len(western) == len(parts) and eastern and western:
            west, east = min(eastern), max(western)
    return [west, south, east, north]
