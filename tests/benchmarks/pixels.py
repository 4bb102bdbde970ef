"""Reading and scoring: a simulated scene of each family, written as COGs when the benchmark runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from shapely.geometry import shape

from daemon.adapters.static_stac import StaticCatalog
from daemon.demo.scenes import DemoPlace
from daemon.scenes import Scene
from daemon.score.access import AccessPolicy
from daemon.score.reading import read_plan
from daemon.watch.catalogs import SceneQuery
from daemon.watch.stac_items import scene_from_item
from engine.bundle import ModelBundle
from engine.look import Look
from engine.raster import read_tiles
from engine.scoring import RunnerChoice, SceneScorer
from engine.sensors import named_sensor, sensor_for
from engine.tiles import TileBatch
from tests.benchmarks.spans import Ratio, Span

BATCH = 32
"""Tiles of one call: the configuration's default."""
RUNNERS = ("torch", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One scene, read."""

    family: str
    scene: Scene
    read: Span
    batches: tuple[TileBatch, ...]


def scenes_of(place: DemoPlace) -> Iterator[Scene]:
    """The place's scenes as the watcher lists them."""
    catalog = StaticCatalog("simulated", str(place.catalog.parent), now=lambda: place.flood_time)
    times = [each.time for each in place.passes]
    query = SceneQuery(collections=(), start=min(times), end=max(times), intersects=place.area)
    for page in catalog.pages(query):
        for item in page.items:
            yield scene_from_item(item, catalog="simulated", sensor_of=lambda *given: sensor_for(*given).name)


def read_samples(place: DemoPlace, bundle: ModelBundle, *, rounds: int) -> list[Sample]:
    """Read each scene over the whole place, ``rounds`` times."""
    samples = []
    for scene in scenes_of(place):
        family = named_sensor(scene.sensor).family
        policy = AccessPolicy(local_roots=(place.catalog.parent,))
        plan = read_plan(scene, policy, bands=bundle.family(family).bands, base=str(place.catalog))
        seconds, batches = [], []
        for _ in range(rounds):
            reader = read_tiles(plan, [shape(dict(place.area))], batch_size=BATCH)
            batches = list(reader)
            seconds.append(reader.report.seconds)
        span = Span(stage="read", family=family, runner=None, tiles=sum(map(len, batches)), seconds=tuple(seconds))
        samples.append(Sample(family=family, scene=scene, read=span, batches=tuple(batches)))
    return samples


def score_samples(
    samples: Sequence[Sample], bundle: ModelBundle, *, tiles: int, rounds: int, threads: int, cache: Path
) -> tuple[list[Span], list[Ratio], dict[str, Any]]:
    """Embed and score ``tiles`` of each sample on each runner, the runners taking turns.

    Returns the spans, the ratios, and the seconds that each runner took to open its networks the first time.
    """
    spans: list[Span] = []
    ratios: list[Ratio] = []
    opening: dict[str, Any] = {}
    with ExitStack() as stack:
        scorers = {
            name: stack.enter_context(
                SceneScorer(bundle, RunnerChoice(runner=name, device="cpu", threads=threads, cache_dir=cache))
            )
            for name in RUNNERS
        }
        for sample in samples:
            chosen = _first(sample.batches, tiles)
            spent: dict[str, list[Counter[str]]] = {name: [] for name in RUNNERS}
            for name, scorer in scorers.items():
                began = time.monotonic()
                scorer.open(sample.family)
                opening[f"{name}, {sample.family}"] = round(time.monotonic() - began, 2)
                scorer.look(chosen.subset(range(min(4, len(chosen)))), sample.family)  # not timed: the first call
            for turn in range(rounds):
                for name in RUNNERS if turn % 2 == 0 else RUNNERS[::-1]:
                    seconds: Counter[str] = Counter()
                    scorers[name].look(chosen, sample.family, seconds)
                    spent[name].append(seconds)
            for stage in ("embed", "score"):
                pair = [
                    Span(
                        stage=stage,
                        family=sample.family,
                        runner=name,
                        tiles=len(chosen),
                        seconds=tuple(float(each[stage]) for each in spent[name]),
                    )
                    for name in RUNNERS
                ]
                spans += pair
                ratios.append(Ratio.of(pair[0], pair[1]))
    return spans, ratios, opening


def look_of(sample: Sample, dim: int, rng: np.random.Generator) -> Look:
    """A look of all tiles of a sample, its numbers drawn at random: judging and storing cost the same."""
    cells = tuple(tile.cell_id for batch in sample.batches for tile in batch.tiles)
    cls = rng.standard_normal((len(cells), dim)).astype(np.float32)
    part = Look(
        cell_ids=cells,
        odeed=rng.lognormal(-7.0, 0.3, len(cells)).astype(np.float32),
        water=rng.beta(1.0, 20.0, len(cells)).astype(np.float32),
        cls=cls / np.linalg.norm(cls, axis=1, keepdims=True),
        valid_ratio=np.ones(len(cells), np.float32),
    )
    return Look.join([part])


def dims(bundle: ModelBundle) -> Mapping[str, int]:
    """Length of an embedding, by family."""
    return {name: family.encoder.config.dim for name, family in bundle.families.items()}


def _first(batches: Sequence[TileBatch], tiles: int) -> TileBatch:
    batch = batches[0]
    return batch.subset(range(min(tiles, len(batch))))
