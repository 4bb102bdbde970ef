"""Scenes of the simulated place whose files, or whose Items, are spoilt in the ways that archives are."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine

from daemon.demo.place import EPSG, transform
from daemon.demo.scenes import DemoPass, DemoPlace
from tests.rasters import write_plain
from tests.servers.http_range import RangeServer

VRT = b"""<VRTDataset rasterXSize="512" rasterYSize="512"><VRTRasterBand dataType="UInt16" band="1">
<SimpleSource><SourceFilename>/etc/passwd</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"""
SIDE_PX = 512


@dataclass(frozen=True, kw_only=True)
class Spoilt:
    """What is wrong with one scene, and how it must end."""

    item: dict[str, Any]
    how: str
    """``failed`` or ``skipped``."""
    why: str
    """Regular expression that its reason must match: what is wrong, with which file."""


def good_item(place: DemoPlace, each: DemoPass, server: RangeServer) -> dict[str, Any]:
    """A pass as it is in the catalog, its files behind a web server."""
    folder = place.catalog.parent / each.collection / each.item_id
    (path,) = folder.glob("*.json")
    item = json.loads(path.read_text(encoding="utf-8"))
    for asset in item["assets"].values():
        asset["href"] = server.url(f"{each.collection}/{each.item_id}/{Path(asset['href']).name}")
    return {**item, "links": []}


def spoilt_scenes(place: DemoPlace, each: DemoPass, whole: RangeServer, broken: RangeServer) -> list[Spoilt]:
    """Copies of a pass, days apart, each spoilt in its own way; writes their files into the folder of ``broken``."""
    red = (place.catalog.parent / each.collection / each.item_id / "red.tif").read_bytes()
    folder = broken.folder
    (folder / "truncated.tif").write_bytes(red[: len(red) // 4])
    (folder / "empty.tif").touch()
    (folder / "disguised.tif").write_bytes(VRT)
    here = Affine(*transform(10.0))
    zeros = np.zeros((SIDE_PX, SIDE_PX), np.uint16)
    write_plain(folder / "all-nodata.tif", zeros, crs=f"EPSG:{EPSG}", transform=here, nodata=0)
    write_plain(folder / "nan.tif", np.full(zeros.shape, np.nan, np.float32), crs=f"EPSG:{EPSG}", transform=here)
    write_plain(folder / "nowhere.tif", zeros + np.uint16(2000), crs=None, transform=here)
    with rasterio.open(folder / "nowhere.tif") as dataset:
        assert dataset.crs is None

    item = good_item(place, each, whole)
    red_is = {
        "truncated": ("failed", r"RasterCorrupt: file \S*truncated\.tif is truncated"),
        "empty": ("failed", r"RasterCorrupt: .*empty\.tif is empty"),
        "all-nodata": ("skipped", r"no tile with enough clear ground \(4 nodata of 4\)"),
        "nan": ("skipped", r"no tile with enough clear ground \(4 nodata of 4\)"),
        "nowhere": ("failed", r"RasterCorrupt: file without CRS: \S*nowhere\.tif; give it one"),
        "disguised": ("failed", r"RasterRefused: .*disguised\.tif.*VRT"),
        "gone": ("failed", r"RasterUnavailable: .*gone\.tif.*is not there"),
    }
    scenes = [
        Spoilt(item=_red_at(item, name, broken.url(f"{name}.tif")), how=how, why=why)
        for name, (how, why) in red_is.items()
    ]
    scenes.append(
        Spoilt(
            item=_red_at(item, "elsewhere", "https://archive.example/red.tif"),
            how="failed",
            why=r"AccessRefused: host 'archive\.example' is not allowed .*add it to access\.hosts",
        )
    )
    bandless = _named(item, "bandless")
    del bandless["assets"]["swir16"]
    scenes.append(
        Spoilt(item=bandless, how="skipped", why=r"band missing: scene bandless .* has no band 'swir16'; its assets")
    )
    taken = datetime.fromisoformat(item["properties"]["datetime"])
    for day, scene in enumerate(scenes, start=1):
        scene.item["properties"]["datetime"] = (taken + timedelta(days=day)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return scenes


def _red_at(item: Mapping[str, Any], name: str, href: str) -> dict[str, Any]:
    changed = _named(item, name)
    changed["assets"]["red"]["href"] = href
    return changed


def _named(item: Mapping[str, Any], name: str) -> dict[str, Any]:
    changed = copy.deepcopy(dict(item))
    changed["id"] = name
    # Another pass, not another listing of this one.
    changed["properties"].pop("s2:datastrip_id", None)
    return changed
