"""What makes two STAC Items one scene, and two listings of a scene different versions.

Catalogs copy, reprocess and rename. Three questions are kept apart (the third, the incident, is asked elsewhere):

* *Identity*, what was seen: one pass of one platform over one square of a grid. Copies of it (`_0`/`_1` twins, the
  collections ``sentinel-2-c1-l2a`` and ``sentinel-2-l2a``, another catalog) share it.
* *Version*, which pixels these are: processing baseline, checksums or sizes, offsets.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

_SAFE_NAME = re.compile(
    r"^S2[A-Z]_MSIL\d[A-Z]_(?P<take>\d{8}T\d{6})_N\d{4}_R\d{3}_T(?P<tile>\d{2}[A-Z]{3})_\d{8}T\d{6}"
)
_DATATAKE = re.compile(r"^GS2[A-Z]_(?P<take>\d{8}T\d{6})_\d{6}_N\d{2}\.\d{2}$")
_DATASTRIP = re.compile(r"_(?P<sensing>S\d{8}T\d{6})(?:_|$)")
_MGRS = re.compile(r"^(?:MGRS-|T)?(?P<zone>\d{1,2})(?P<rest>[C-HJ-NP-X][A-HJ-NP-Z]{2})$")
_PRODUCT_KEYS = ("s2:product_uri", "eopf:product_uri", "sentinel:product_id")
_BASELINE_KEYS = ("processing:version", "s2:processing_baseline", "sentinel:processing_baseline")
_OFFSET_FLAGS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_CHECKSUM_KEYS = ("file:checksum", "checksum:multihash")
_UNREAD_ROLES = frozenset({"thumbnail", "overview", "metadata", "visual"})


def platform_name(properties: Mapping[str, Any]) -> str | None:
    """``platform`` in one spelling: ``Sentinel-2B``, ``SENTINEL_2B`` and ``sentinel-2b`` are one satellite.

    No list of platforms is kept: a new satellite must not need a new release.
    """
    value = properties.get("platform", properties.get("eo:platform"))
    if not isinstance(value, str) or not value.strip():
        return None
    return re.sub(r"[\s_]+", "-", value.strip().lower())


def grid_code(properties: Mapping[str, Any], item_id: str = "") -> str | None:
    """The square of the provider's grid, as the grid extension writes it (``MGRS-06VVN``), where one is given.

    1. ``grid:code``; 2. ``s2:mgrs_tile`` (Planetary Computer); 3. the parts of the mgrs extension or of Earth Search
    v0; 4. the tile in a Sentinel-2 product name. The zone has two digits whatever the catalog writes.
    """
    code = properties.get("grid:code")
    if isinstance(code, str) and code.strip():
        return _mgrs(code.strip()) or code.strip()
    tile = properties.get("s2:mgrs_tile")
    if isinstance(tile, str) and (named := _mgrs(tile)):
        return named
    for prefix in ("mgrs", "sentinel"):
        parts = [properties.get(f"{prefix}:{part}") for part in ("utm_zone", "latitude_band", "grid_square")]
        if all(part is not None for part in parts) and (named := _mgrs("".join(str(part) for part in parts))):
            return named
    product = _product(properties, item_id)
    return _mgrs(product["tile"]) if product else None


def scene_identity(
    *,
    collection: str,
    item_id: str,
    platform: str | None,
    grid: str | None,
    sensing_time: datetime,
    properties: Mapping[str, Any],
) -> str:
    """The key of what was seen, equal for every copy of it.

    ``platform|time|grid|datastrip`` where platform and grid are given, else ``collection/item id``.

    *Time* is the start of the data take, to the second, where a Sentinel-2 Item names its product or data take, because
    catalogs disagree on ``datetime``: Planetary Computer gives the data take's start, Earth Search v1 the moment the
    tile was crossed, v0 that moment cut to the second. Elsewhere it is ``datetime`` cut to the second.

    *Datastrip* is the sensing start within the datastrip id (``S20250731T131905``), nothing else of it: the rest names
    the processing centre, level, processing time and baseline, which differ between the copies of one acquisition. The
    sensing start must stay, because a tile on the seam of two datastrips is delivered as two products of one data take.
    """
    if platform is None or grid is None:
        return f"{collection}/{item_id}"
    strip = properties.get("s2:datastrip_id", properties.get("eopf:datastrip_id"))
    sensing = _DATASTRIP.search(strip) if isinstance(strip, str) else None
    time = _take(properties, item_id) or f"{sensing_time:%Y%m%dT%H%M%S}"
    return f"{platform}|{time}|{grid}|{sensing['sensing'] if sensing else ''}"


def processing_baseline(properties: Mapping[str, Any]) -> str | None:
    """The processing baseline or software version that the Item states; ``0511`` and ``05.11`` are one."""
    for key in _BASELINE_KEYS:
        value = properties.get(key)
        if isinstance(value, str) and value.strip():
            text = value.strip()
            return f"{text[:2]}.{text[2:]}" if re.fullmatch(r"\d{4}", text) else text
    return None


def baseline_order(baseline: str | None) -> tuple[int, ...]:
    """A baseline as numbers that compare in order of release; none is oldest."""
    return tuple(int(part) for part in re.findall(r"\d+", baseline or ""))


def scene_version(*, sensor: str, properties: Mapping[str, Any], assets: Mapping[str, Any]) -> str:
    """Digest of what decides the pixel values: 16 hex digits.

    Goes in: the sensor (L1C and L2A of one pass differ), processing baseline, the flags that say an offset was already
    applied, and for each asset that can be read as data its checksum (else its size), scale and offset. ``updated``,
    hrefs, thumbnails and metadata files stay out: they change without the pixels.
    """
    content = {
        "sensor": sensor,
        "baseline": processing_baseline(properties),
        "flags": {key: properties[key] for key in _OFFSET_FLAGS if key in properties},
        "assets": {key: fingerprint for key, asset in assets.items() if (fingerprint := _fingerprint(asset))},
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _fingerprint(asset: Any) -> dict[str, Any] | None:
    if not isinstance(asset, Mapping) or _UNREAD_ROLES & set(_strings(asset.get("roles"))):
        return None
    found: dict[str, Any] = {}
    checksum = next((str(asset[key]) for key in _CHECKSUM_KEYS if asset.get(key)), None)
    if checksum is not None:
        found["checksum"] = checksum
    elif asset.get("file:size") is not None:
        found["size"] = asset["file:size"]
    listed = asset.get("raster:bands") or asset.get("bands")
    bands = [band for band in listed if isinstance(band, Mapping)] if isinstance(listed, list) else []
    numbers = [[_either(band, "scale"), _either(band, "offset")] for band in (bands or [asset])]
    if any(value is not None for pair in numbers for value in pair):
        found["scale_offset"] = numbers
    return found or None


def _either(band: Mapping[str, Any], key: str) -> Any:
    return band.get(f"raster:{key}", band.get(key))


def _strings(value: Any) -> list[str]:
    return [part for part in value if isinstance(part, str)] if isinstance(value, list) else []


def _mgrs(text: str) -> str | None:
    match = _MGRS.match(text.upper())
    return f"MGRS-{int(match['zone']):02d}{match['rest']}" if match else None


def _product(properties: Mapping[str, Any], item_id: str) -> re.Match[str] | None:
    names = [properties.get(key) for key in _PRODUCT_KEYS]
    return next(
        (match for name in [*names, item_id] if isinstance(name, str) and (match := _SAFE_NAME.match(name))), None
    )


def _take(properties: Mapping[str, Any], item_id: str) -> str | None:
    product = _product(properties, item_id)
    if product:
        return product["take"]
    given = properties.get("s2:datatake_id", properties.get("eopf:datatake_id"))
    take = _DATATAKE.match(given) if isinstance(given, str) else None
    return take["take"] if take else None
