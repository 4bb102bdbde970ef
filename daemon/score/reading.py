"""From a scene of a catalog to a plan for reading its pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from daemon.errors import SceneInvalid
from daemon.scenes import Scene
from daemon.score.access import AccessPolicy
from engine.errors import BandMissing
from engine.read_plan import BandSource, MaskSource, ReadPlan
from engine.scaling import reflectance_scale
from engine.sensors import Band, Sensor, band_list, band_names, named_sensor

# Pictures for people: stretched to 8 bits, so their numbers are no reflectance even where their bands have the names.
_PICTURE_ROLES = {"visual", "overview", "thumbnail", "metadata"}
_PICTURE_KEYS = {"visual", "overview", "thumbnail", "preview", "rendered_preview"}

Assets = Mapping[str, Mapping[str, Any]]


def read_plan(
    scene: Scene, policy: AccessPolicy, *, bands: Sequence[str], optional: Sequence[str] = (), base: str | None = None
) -> ReadPlan:
    """Which file and band holds what is needed of a scene, with scale and offset, each href approved.

    Args:
        scene: as the catalog described it.
        policy: what may be opened.
        bands: common names that must be there, in the order in which tiles shall hold them.
        optional: common names that are added behind them where the scene has them.
        base: where the Item was read (its own URL, file, or its catalog's folder), for relative hrefs and to know
            whether the catalog is local.

    Raises:
        BandMissing: the scene lacks one of ``bands``.
        AccessRefused: an href breaks the policy.
        SceneInvalid: assets are not what STAC says they are.
        SensorUnknown: the scene's sensor is not in the table.
    """
    sensor = named_sensor(scene.sensor)
    assets = _assets(scene)
    sources: list[BandSource] = []
    for name in (*bands, *(name for name in optional if name not in bands)):
        band = sensor.band(name)
        found = None if band is None else _locate(band, assets, sensor)
        if found is None:
            if name in bands:
                raise BandMissing(
                    f"scene {scene.item_id} of {scene.collection} ({sensor.name}) has no band {name!r}; "
                    f"its assets are {', '.join(sorted(assets)[:20]) or 'none'}"
                )
            continue
        key, position = found
        scaling = reflectance_scale(_properties(scene), assets[key], level=sensor.level, position=position)
        sources.append(
            BandSource(
                band=name,
                href=_href(scene, key, assets, policy, base),
                index=position + 1,
                scale=scaling.scale,
                offset=scaling.offset,
                nodata=sensor.nodata,
            )
        )
    if not sources:
        raise BandMissing(f"no band of scene {scene.item_id} was asked for")
    return ReadPlan(
        sensor=sensor,
        bands=tuple(sources),
        mask=_mask(scene, sensor, assets, policy, base),
        name=f"{scene.collection}/{scene.item_id}",
    )


def _locate(band: Band, assets: Assets, sensor: Sensor) -> tuple[str, int] | None:
    """The asset that holds a band and the band's place in it, from 0."""
    wanted = {band.name, *band.names}
    # 1. An asset of the usual key: the band's own file, or a file of several whose list (or usual order) names it.
    for key in band.asset_keys:
        if key in assets:
            entries = band_list(assets[key])
            position = _position(entries, wanted)
            if position is not None:
                return key, position
            if len(entries) <= 1:
                shared = sum(key in other.asset_keys for other in sensor.bands) > 1
                return key, band.index - 1 if shared else 0
    # 2. Any other data asset whose band list names it.
    for key, asset in sorted(assets.items()):
        roles = set(asset.get("roles") or ())
        picture = key in _PICTURE_KEYS or roles & _PICTURE_ROLES
        if picture and sensor.level != "dn8":
            continue
        if roles & {"thumbnail", "metadata"} or "jp2" in str(asset.get("type")):
            continue
        position = _position(band_list(asset), wanted)
        if position is not None:
            return key, position
    return None


def _position(entries: Sequence[Mapping[str, Any]], wanted: set[str]) -> int | None:
    return next((i for i, entry in enumerate(entries) if band_names(entry) & wanted), None)


def _mask(scene: Scene, sensor: Sensor, assets: Assets, policy: AccessPolicy, base: str | None) -> MaskSource | None:
    for spec in sensor.masks:
        for key in spec.asset_keys:
            if key in assets:
                return MaskSource(href=_href(scene, key, assets, policy, base), index=1, spec=spec)
        for key, asset in sorted(assets.items()):
            position = _position(band_list(asset), set(spec.names))
            if position is not None:
                return MaskSource(href=_href(scene, key, assets, policy, base), index=position + 1, spec=spec)
    return None


def _assets(scene: Scene) -> Assets:
    assets = scene.item.get("assets")
    if not isinstance(assets, Mapping) or not all(isinstance(asset, Mapping) for asset in assets.values()):
        raise SceneInvalid(f"scene {scene.item_id} of {scene.collection} has no assets; it is no valid STAC Item")
    return assets


def _properties(scene: Scene) -> Mapping[str, Any]:
    properties = scene.item.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _href(scene: Scene, key: str, assets: Assets, policy: AccessPolicy, base: str | None) -> str:
    href = assets[key].get("href")
    if not isinstance(href, str):
        raise SceneInvalid(f"asset {key!r} of scene {scene.item_id} has no href")
    return policy.approve(href, base=base)
