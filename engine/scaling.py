"""From stored numbers to reflectance: scale, offset, and whether the pixels agree.

Sentinel-2 products store ``DN = 10000 * reflectance``, from processing baseline 04.00 (January 2022) on with 1000 added
so that noise over dark ground can stay below zero. Some catalogs subtract the 1000 again, some do not, and some say the
wrong thing about it (Element84/earth-search issues 66 and 71, cirrus-earth-search issues 21 and 33). So the metadata
decide, by the order below, and the pixels are asked whether that can be true.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.sensors import Level

QUANTIFICATION = 1e-4
"""Reflectance per DN of Sentinel-2 (``QUANTIFICATION_VALUE`` 10000)."""
BASELINE_OFFSET = -0.1
"""Offset of reflectance from baseline 04.00 on (``BOA_ADD_OFFSET``, ``RADIO_ADD_OFFSET`` -1000)."""

OffsetVerdict = Literal["agrees", "already applied", "not applied", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """reflectance = DN * scale + offset, and who said so."""

    scale: float
    """Reflectance per DN."""
    offset: float
    """Reflectance at DN 0."""
    source: str
    """Which rule gave the offset, for logs and evidence."""


def reflectance_scale(
    properties: Mapping[str, Any], asset: Mapping[str, Any], *, level: Level, position: int = 0
) -> Scaling:
    """Scale and offset of one band of a STAC asset.

    Args:
        properties: the Item's properties.
        asset: the asset that holds the band.
        level: what the sensor's numbers are.
        position: place of the band in the asset's band lists, from 0.
    """
    if level == "dn8":
        return Scaling(scale=1.0 / 255.0, offset=0.0, source="8-bit brightness")
    entry = _raster_entry(asset, position)
    scale = _number(entry.get("scale")) or QUANTIFICATION

    # 1. A catalog that subtracted the offset itself says so, and lists offset -0.1 in raster:bands all the same.
    applied = _flag(properties, "earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
    if applied:
        return Scaling(scale=scale, offset=0.0, source="boa_offset_applied: true")
    # 2. The asset's own scale and offset (raster:bands, or bands of STAC 1.1).
    offset = _number(entry.get("offset"))
    if offset is not None:
        return Scaling(scale=scale, offset=offset, source="raster:bands")
    # 3. The processing baseline. The date of acquisition is no test: old scenes are processed again.
    baseline = processing_baseline(properties)
    if baseline is not None:
        return Scaling(
            scale=scale,
            offset=BASELINE_OFFSET if baseline >= (4, 0) else 0.0,
            source=f"processing baseline {baseline[0]:02d}.{baseline[1]:02d}",
        )
    # 4. Nothing is known: numbers are taken as they stand.
    return Scaling(scale=scale, offset=0.0, source="no offset given")


def processing_baseline(properties: Mapping[str, Any]) -> tuple[int, int] | None:
    """The Sentinel-2 processing baseline, e.g. (5, 11), where the Item gives one that can be read."""
    for key in ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version"):
        head, dot, tail = str(properties.get(key, "")).strip().removeprefix("N").partition(".")
        if dot and head.isdigit() and tail.isdigit():
            return int(head), int(tail)
    return None


class OffsetEvidence:
    """What dark pixels say about the offset of one Sentinel-2 band. Not for threads to share.

    Water and shade reflect next to nothing in red, near and short-wave infrared. Their DN therefore lie near 0 where no
    1000 has been added (or it was taken away again) and near 1000 where it is still there.
    """

    MIN_PIXELS = 20_000
    """With fewer pixels there is no verdict."""
    MIN_SHARE = 0.005
    """Share of pixels that must be dark before they count as evidence."""
    _LIMIT = 2000

    def __init__(self, *, offset: float, scale: float) -> None:
        self._expected_dn = -offset / scale
        self._histogram = np.zeros(self._LIMIT + 1, dtype=np.int64)

    def add(self, dn: npt.NDArray[np.float32]) -> None:
        """Count clear pixels. (n,)"""
        counted = np.clip(dn, 0, self._LIMIT).astype(np.int64)
        self._histogram += np.bincount(counted, minlength=self._LIMIT + 1)

    @property
    def verdict(self) -> OffsetVerdict:
        """``already applied``: the offset in use takes the 1000 away twice; ``not applied``: never."""
        total = int(self._histogram.sum())
        if total < self.MIN_PIXELS:
            return "unknown"
        # Below 900 no clear pixel can lie while the 1000 is in the data: reflectance would be less than -0.01.
        below = float(self._histogram[1:900].sum()) / total
        darkest = int(np.searchsorted(np.cumsum(self._histogram), math.ceil(self.MIN_SHARE * total)))
        if self._expected_dn >= 500:
            return "already applied" if below > self.MIN_SHARE else "agrees"
        if below > self.MIN_SHARE:
            return "agrees"
        # The darkest ground sits where black would sit with the 1000 still there. Haze and bright deserts lie higher.
        return "not applied" if 950 <= darkest <= 1150 else "unknown"


def _raster_entry(asset: Mapping[str, Any], position: int) -> Mapping[str, Any]:
    """Scale and offset of a band wherever the STAC versions put them: ``raster:bands``, ``bands``, or the asset."""
    found: dict[str, Any] = {key: asset[f"raster:{key}"] for key in ("scale", "offset") if f"raster:{key}" in asset}
    for listing, prefix in (("bands", "raster:"), ("raster:bands", "")):
        entries = asset.get(listing)
        if isinstance(entries, list) and position < len(entries) and isinstance(entries[position], Mapping):
            entry = entries[position]
            found |= {key: entry[prefix + key] for key in ("scale", "offset") if prefix + key in entry}
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _flag(properties: Mapping[str, Any], *keys: str) -> bool | None:
    for key in keys:
        value = properties.get(key)
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in {"true", "false"}:
            return value.lower() == "true"
    return None
