"""A harvest from listing to shards, which goes on where it was stopped.

::

    OUT/harvest.json                       the order, and the scenes that were chosen
    OUT/COLLECTION/ITEM-HASH-000.safetensors   tiles of one scene (:mod:`engine.shards`)
    OUT/COLLECTION/ITEM-HASH.json          written last: the scene is done, and this is what it gave

Each file is written whole or not at all. A scene without its JSON file is read again from its start.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations, product
from pathlib import Path
from typing import Any

from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from daemon.errors import HarvestInvalid
from daemon.harvest.choice import Choice, choose
from daemon.harvest.listing import Listing
from daemon.harvest.order import Order
from daemon.harvest.reading import Gathered, SceneReader
from daemon.scenes import Scene
from engine.errors import VigieError
from engine.grid import Cell

FORMAT = "vigie.harvest.v1"
PLAN = "harvest.json"

SceneKey = tuple[str, str]
"""Collection id and Item id."""


@dataclass(frozen=True, kw_only=True)
class PairCount:
    """Tiles of two collections (or of one at two times) that show the same ground in time."""

    collections: tuple[str, str]
    pairs: int
    median_days: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What lies in the folder in the end."""

    scenes: Mapping[str, int]
    """Scenes done, by collection."""
    tiles: Mapping[str, int]
    skipped: Mapping[str, int]
    """Tiles left out, by what most of their missing ground is."""
    pairs: tuple[PairCount, ...]
    failures: Mapping[str, str]
    """Scenes that could not be read, and why; the next run tries them again."""


class Harvest:
    """The folder of one harvest."""

    def __init__(self, out: Path, order: Order) -> None:
        self.out = out
        self.order = order

    def plan(self, list_scenes: Callable[[], Listing]) -> tuple[Choice, Listing | None]:
        """The scenes to read: those of an earlier run in this folder that are not done yet, or a fresh choice.

        The catalog is not asked if all of an earlier run's scenes are done.

        Raises:
            HarvestInvalid: the folder holds another harvest, or there is nothing to choose.
            CatalogUnavailable: the catalog failed.
            CatalogInvalid: its answer can never be used.
        """
        told = self._read_plan()
        if told is None:
            listing = list_scenes()
            choice = choose(listing.scenes, self.order)
            self._write_plan(choice)
            return choice, listing
        ground: BaseGeometry = shape(told["ground"])
        wanted = [(str(each["collection"]), str(each["item"])) for each in told["scenes"]]
        if all(self._outcome(key).is_file() for key in wanted):
            return Choice(scenes=(), ground=ground), None
        listing = list_scenes()
        there = {(scene.collection, scene.item_id): scene for scene in listing.scenes}
        gone = [f"{collection}/{item}" for collection, item in wanted if (collection, item) not in there]
        if len(gone) == len(wanted):
            raise HarvestInvalid(f"none of the scenes that {self.out / PLAN} names is listed any more; start afresh")
        scenes = tuple(there[key] for key in wanted if key in there and not self._outcome(key).is_file())
        return Choice(scenes=scenes, ground=ground), listing

    def read(
        self, choice: Choice, reader: SceneReader, *, show: Callable[[Scene, str], None] = lambda scene, what: None
    ) -> Mapping[str, str]:
        """Read the scenes, one after another; what fails does not stop the next.

        Args:
            choice: from :meth:`plan`.
            reader: reads one scene.
            show: called after each scene with what came of it.

        Returns:
            The scenes that failed, and why.
        """
        failures: dict[str, str] = {}
        for scene in choice.scenes:
            key = (scene.collection, scene.item_id)
            folder = self.out / _safe(scene.collection)
            # Of a run that was killed: the same scene may give fewer files now.
            for left in folder.glob(f"{stem_of(key)}-*"):
                left.unlink()
            try:
                gathered = reader.gather(scene, folder, stem_of(key))
            except VigieError as error:
                failures[f"{scene.collection}/{scene.item_id}"] = f"{type(error).__name__}: {error}"
                show(scene, f"failed: {type(error).__name__}: {error}")
                continue
            folder.mkdir(parents=True, exist_ok=True)
            _write(self._outcome(key), _outcome(scene, gathered))
            show(scene, f"{len(gathered.cells)} tiles")
        return failures

    def summary(self, failures: Mapping[str, str]) -> Summary:
        """What the folder holds, read from the outcomes of its scenes."""
        scenes: Counter[str] = Counter()
        tiles: Counter[str] = Counter()
        skipped: Counter[str] = Counter()
        looks: dict[str, dict[object, list[datetime]]] = defaultdict(lambda: defaultdict(list))
        for path in sorted(self.out.glob("*/*.json")):
            told = json.loads(path.read_text(encoding="utf-8"))
            collection, sensed = told["collection"], datetime.fromisoformat(told["sensed"])
            scenes[collection] += 1
            tiles[collection] += len(told["cells"])
            skipped.update(told["skipped"])
            for cell in told["cells"]:
                parsed = Cell.parse(cell)
                looks[collection][parsed.epsg, parsed.bounds].append(sensed)
        counts = [self._paired((one, one), looks[one], looks[one]) for one in scenes]
        counts += [
            self._paired((one, other), looks[one], looks[other]) for one, other in combinations(sorted(scenes), 2)
        ]
        return Summary(
            scenes=dict(scenes),
            tiles=dict(tiles),
            skipped=dict(skipped),
            pairs=tuple(count for count in counts if count is not None),
            failures=failures,
        )

    def _paired(
        self,
        names: tuple[str, str],
        first: Mapping[object, Sequence[datetime]],
        second: Mapping[object, Sequence[datetime]],
    ) -> PairCount | None:
        apart: list[float] = []
        for square in first.keys() & second.keys():
            couples = combinations(first[square], 2) if first is second else product(first[square], second[square])
            apart += [abs((b - a).total_seconds()) / 86400 for a, b in couples]
        apart = sorted(days for days in apart if days <= self.order.within_days)
        if not apart:
            return None
        return PairCount(collections=names, pairs=len(apart), median_days=apart[len(apart) // 2])

    def _read_plan(self) -> Mapping[str, Any] | None:
        path = self.out / PLAN
        if not path.is_file():
            return None
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            other = {key for key, value in self._told().items() if told["order"].get(key) != value}
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise HarvestInvalid(f"{path} is damaged ({error}); remove the folder, or choose another") from error
        if told.get("format") != FORMAT or other:
            raise HarvestInvalid(
                f"{self.out} holds a harvest of other {', '.join(sorted(other)) or 'format'}; choose another folder"
            )
        plan: Mapping[str, Any] = told
        return plan

    def _write_plan(self, choice: Choice) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        _write(
            self.out / PLAN,
            {
                "format": FORMAT,
                "order": self._told(),
                "ground": json.loads(json.dumps(mapping(choice.ground))),
                "scenes": [
                    {"collection": scene.collection, "item": scene.item_id, "sensed": scene.sensing_time.isoformat()}
                    for scene in choice.scenes
                ],
            },
        )

    def _told(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads(json.dumps(self.order.to_json()))
        return plain

    def _outcome(self, key: SceneKey) -> Path:
        return self.out / _safe(key[0]) / f"{stem_of(key)}.json"


def stem_of(key: SceneKey) -> str:
    """The name of a scene's files: readable, and different for different Items whatever their ids hold."""
    return f"{_safe(key[1])}-{hashlib.sha256('|'.join(key).encode()).hexdigest()[:8]}"


def _safe(text: str) -> str:
    """A text of a catalog as a file's name: no separator, no dot at its start, not too long."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip(".")[:100] or "_"


def _outcome(scene: Scene, gathered: Gathered) -> dict[str, Any]:
    report = gathered.report
    return {
        "collection": scene.collection,
        "item": scene.item_id,
        "sensor": scene.sensor,
        "sensed": scene.sensing_time.isoformat(),
        "version": scene.version,
        "cloud_cover_percent": scene.cloud_cover_percent,
        "gsd_m": report.gsd_m,
        "epsg": report.epsg,
        "resampled": report.resampled,
        "cells": list(gathered.cells),
        "files": list(gathered.files),
        "skipped": dict(report.skipped),
        "warnings": list(report.warnings),
        "seconds": round(report.seconds, 3),
    }


def _write(path: Path, document: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
