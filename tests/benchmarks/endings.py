"""Judging a scene against its place's past, and storing what it meant: the worker's last two stages on SQLite."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np

from daemon.clock import SystemClock
from daemon.demo.scenes import DemoPlace
from daemon.scenes import Area, Scene
from daemon.score.conclusion import conclude
from daemon.score.incidents import IncidentRules
from daemon.score.judging import ModelIdentity, judge, pin
from daemon.store import Cursor, Role, Sighting, Store
from engine.bundle import ModelBundle
from engine.judge import DetectSettings
from engine.look import Look
from tests.benchmarks.pixels import Sample, dims, look_of
from tests.benchmarks.spans import Span

HISTORY = 12
"""Earlier looks: the configuration's default."""
FLOODED = 9
"""Tiles that show new water, so that there is something to detect and to tell."""


def end_scenes(sample: Sample, place: DemoPlace, bundle: ModelBundle, folder: Path, *, rounds: int) -> list[Span]:
    """End ``HISTORY`` scenes of a place, then ``rounds`` with a flood; the last are timed."""
    area = Area(name="bench", geometry=place.area, history_looks=HISTORY, alert_since=sample.scene.sensing_time)
    model = ModelIdentity(name=bundle.name, model_hash=bundle.model_hash, families=tuple(sorted(bundle.families)))
    rng = np.random.default_rng(0)
    usual = look_of(sample, dims(bundle)[sample.family], rng)
    spent: dict[str, list[float]] = {"detect": [], "store": []}
    with Store.open(f"sqlite:///{folder / 'bench.db'}", clock=SystemClock()) as store:
        store.migrate()
        store.register_areas([area], {"bench": [area.name]})
        scenes = {scene.scene_id: (scene, role) for scene, role in _scenes(sample.scene, rounds)}
        store.record_page("bench", [Sighting(scene=s, areas={area.name: role}) for s, role in scenes.values()])
        store.close_window("bench", [area.name], Cursor(time=sample.scene.sensing_time, settled=True))
        while (claim := store.claim("bench", 600.0)) is not None:
            role = claim.areas[area.name]
            look = _changed(usual, rng, flooded=role == "fresh")
            began = time.monotonic()
            pinned = pin(store, claim, area, sample.family, model.model_hash)
            calibration = bundle.family(sample.family).calibration
            verdict = judge(store, claim.scene, area, role, pinned, look, model, calibration, DetectSettings())
            judged = time.monotonic()
            with store.finish(claim) as ending:
                conclude(ending, claim.scene, [verdict], family=sample.family, model=model, rules=IncidentRules())
                ending.done("scored", None, {})
            if role == "fresh":
                spent["detect"].append(judged - began)
                spent["store"].append(time.monotonic() - judged)
        if not store.counts().outbox_unsent:
            raise RuntimeError("the benchmark's flood raised no alert, so its endings are not what a flood costs")
    return [
        Span(stage=stage, family=sample.family, runner=None, tiles=len(usual), seconds=tuple(seconds))
        for stage, seconds in spent.items()
    ]


def _scenes(scene: Scene, rounds: int) -> list[tuple[Scene, Role]]:
    """The scene's twins, ten days apart."""
    made: list[tuple[Scene, Role]] = []
    for number in range(-HISTORY, rounds):
        twin = replace(
            scene,
            identity=f"bench {number}",
            item_id=f"bench-{number}",
            sensing_time=scene.sensing_time + timedelta(days=10 * number),
        )
        made.append((twin, "history" if number < 0 else "fresh"))
    return made


def _changed(look: Look, rng: np.random.Generator, *, flooded: bool) -> Look:
    """The usual look with the noise of another day, and new water in some tiles."""
    n = len(look)
    cls = look.cls + 0.05 * rng.standard_normal(look.cls.shape).astype(np.float32)
    water = np.clip(look.water + 0.005 * rng.standard_normal(n), 0, 1)
    odeed = look.odeed * rng.lognormal(0.0, 0.05, n)
    if flooded:
        water[:FLOODED], odeed[:FLOODED] = 0.9, odeed[:FLOODED] * 0.2
    return replace(
        look,
        odeed=odeed.astype(np.float32),
        water=water.astype(np.float32),
        cls=cls / np.linalg.norm(cls, axis=1, keepdims=True),
    )
