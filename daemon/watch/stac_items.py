"""A raw STAC Item to a :class:`Scene`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from daemon.errors import SceneInvalid
from daemon.scenes import Scene
from daemon.watch.footprints import footprint, to_geojson
from daemon.watch.identity import grid_code, platform_name, scene_identity, scene_version
from daemon.watch.stac_times import parse_time

SensorOf = Callable[[str, Mapping[str, Any], Mapping[str, Any]], str]
"""(collection, properties, assets) -> name of the sensor; raises :class:`engine.errors.SensorUnknown`."""


def scene_from_item(item: object, *, catalog: str, sensor_of: SensorOf) -> Scene:
    """One STAC Item as the daemon knows it.

    ``item`` is the decoded JSON of an Item whose asset hrefs are absolute (see :func:`with_absolute_hrefs`).
    ``sensor_of`` names the sensor. Raises :class:`SceneInvalid` where the Item lacks what a scene needs or a value has
    a wrong type, and lets :class:`engine.errors.SensorUnknown` of ``sensor_of`` pass.
    """
    if not isinstance(item, Mapping) or item.get("type") != "Feature":
        raise SceneInvalid(f"catalog {catalog}: not a STAC Item but {_sketch(item)}")
    item_id = _text(item.get("id"), f"an Item of catalog {catalog}", "id")
    collection = _text(item.get("collection", _old_collection(item)), item_id, "collection")
    of = f"{collection}/{item_id}"
    properties, assets = (_object(item.get(part), of, part) for part in ("properties", "assets"))
    for key, asset in assets.items():
        if not isinstance(asset, Mapping) or not isinstance(asset.get("href"), str):
            raise SceneInvalid(f"{of}: asset {key!r} has no href")
    sensing_time = _sensing_time(properties, of)
    sensor = sensor_of(collection, properties, assets)
    platform, grid = platform_name(properties), grid_code(properties, item_id)
    return Scene(
        identity=scene_identity(
            collection=collection,
            item_id=item_id,
            platform=platform,
            grid=grid,
            sensing_time=sensing_time,
            properties=properties,
        ),
        version=scene_version(sensor=sensor, properties=properties, assets=assets),
        catalog=catalog,
        collection=collection,
        item_id=item_id,
        sensor=sensor,
        platform=platform,
        sensing_time=sensing_time,
        grid_code=grid,
        geometry=to_geojson(footprint(item.get("geometry"), of=of)),
        cloud_cover_percent=_cloud_cover(properties, of),
        updated=_updated(properties),
        item={key: value for key, value in item.items() if key != "links"},
    )


def with_absolute_hrefs(item: Mapping[str, Any], base: str) -> dict[str, Any]:
    """The Item with its asset hrefs made absolute.

    ``base`` is where the Item was read (URL or absolute path). What is already absolute, of whatever scheme, is left
    alone: whether it may be opened is the access policy's matter.
    """
    assets = item.get("assets")
    if not isinstance(assets, Mapping):
        return dict(item)
    return {**item, "assets": {key: _absolute_asset(asset, base) for key, asset in assets.items()}}


def self_href(item: Mapping[str, Any]) -> str | None:
    """The Item's own address by its ``self`` link, where it has one."""
    links = item.get("links")
    for link in links if isinstance(links, list) else []:
        if isinstance(link, Mapping) and link.get("rel") == "self" and isinstance(link.get("href"), str):
            return str(link["href"])
    return None


def absolute(href: str, base: str) -> str:
    """``href`` relative to the document at ``base``, which is a URL or an absolute path."""
    if urlsplit(href).scheme or href.startswith("/vsi"):
        return href
    if urlsplit(base).scheme in ("http", "https"):
        return urljoin(base, href)
    return str(Path(base).parent / href)


def _absolute_asset(asset: Any, base: str) -> Any:
    if not isinstance(asset, Mapping) or not isinstance(asset.get("href"), str):
        return asset
    return {**asset, "href": absolute(asset["href"], base)}


def _sensing_time(properties: Mapping[str, Any], of: str) -> datetime:
    """``datetime``, or ``start_datetime`` where it is null, as STAC allows for a range."""
    key = "datetime" if properties.get("datetime") is not None else "start_datetime"
    if properties.get(key) is None:
        raise SceneInvalid(f"{of}: the Item has neither datetime nor start_datetime; when it was sensed is unknown")
    try:
        return parse_time(properties[key])
    except ValueError as error:
        raise SceneInvalid(f"{of}: {key}: {error}") from error


def _updated(properties: Mapping[str, Any]) -> datetime | None:
    """``updated``, else ``created``. It only prompts a look, so what cannot be read counts as not given."""
    for key in ("updated", "created"):
        try:
            return parse_time(properties.get(key))
        except ValueError:
            continue
    return None


def _cloud_cover(properties: Mapping[str, Any], of: str) -> float | None:
    value = properties.get("eo:cloud_cover")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SceneInvalid(f"{of}: eo:cloud_cover is {value!r}, not a percentage")
    # Some catalogs write -1 where the cover was not measured.
    return float(value) if 0 <= value <= 100 else None


def _text(value: object, of: str, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise SceneInvalid(f"{of}: {key} is {_sketch(value)}, not a text")
    return value


def _object(value: object, of: str, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SceneInvalid(f"{of}: {key} is {_sketch(value)}, not an object")
    return value


def _old_collection(item: Mapping[str, Any]) -> object:
    """STAC before 1.0 kept the collection among the properties."""
    properties = item.get("properties")
    return properties.get("collection") if isinstance(properties, Mapping) else None


def _sketch(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
