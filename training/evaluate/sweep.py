"""ODEED's settings against what they cost: steps, largest noise, solver and distance, on events the network never saw.

With an exact solver ODEED is 0 for every image: what it measures is the solver's error, so these settings are the
detector (:mod:`engine.odeed`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.embed import Embedder
from engine.ode import SolverName
from engine.odeed import Odeed
from engine.runners.base import Runner
from engine.scorers.controls import Energy
from engine.tiles import Float32Array
from training.data.heldout import FloodTiles
from training.evaluate.metrics import auroc
from training.evaluate.protocol import FLOODED_FROM
from training.running.runfolder import RunFolder
from training.running.serving import BATCH, settings_of

KNEE = 0.01
"""AUROC that the default may lie below the best setting: what one evaluation more would have to buy."""


@dataclass(frozen=True, kw_only=True)
class SweepGrid:
    """What is tried; ratios are σ_max / σ_data."""

    euler_steps: tuple[int, ...] = (2, 3, 4, 5, 8)
    heun_steps: tuple[int, ...] = (2, 3, 4)
    ratios: tuple[float, ...] = (2.0, 10.0, 40.0, 160.0)

    def settings(self) -> list[tuple[SolverName, int, float]]:
        """Every setting, cheapest first."""
        found: list[tuple[SolverName, int, float]] = [("euler", n, r) for n in self.euler_steps for r in self.ratios]
        found += [("heun", n, r) for n in self.heun_steps for r in self.ratios]
        return sorted(found, key=lambda each: (evaluations(each[0], each[1]), each))


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """One setting's AUROCs on the held-out events of one run."""

    run: str
    events: tuple[str, ...]
    solver: SolverName
    steps: int
    ratio: float
    """σ_max / σ_data."""
    distance: str
    """``mse`` or ``xstars``."""
    nfe: int
    """Evaluations of the denoiser."""
    flooded_vs_dry: float
    after_vs_before: float
    energy_correlation: float
    """Spearman's, with the tile's mean of x² over the after-tiles: near 1 the score *is* the energy."""
    n_pos: int
    n_neg: int

    @property
    def worth(self) -> float:
        """Mean of the two protocols: what settings are chosen by."""
        return (self.flooded_vs_dry + self.after_vs_before) / 2


def evaluations(solver: SolverName, steps: int) -> int:
    """Evaluations of the denoiser for both legs."""
    return 2 * steps * (2 if solver == "heun" else 1)


def sweep_run(
    run: RunFolder,
    events: Sequence[str],
    denoiser: Runner,
    encoder: Runner,
    floods: FloodTiles,
    grid: SweepGrid,
    say: Callable[[SweepPoint], None],
) -> list[SweepPoint]:
    """Try every setting on some held-out tiles, flooded ones and dry ones.

    Args:
        run: of the denoiser.
        events: where the tiles are from.
        denoiser: its network, opened.
        encoder: opened, for the X-STARS distance.
        floods: tiles, of both kinds.
        grid: the settings.
        say: told each point as it comes.

    Raises:
        TrainingDataInvalid: one kind of tiles is missing.
    """
    much, none = floods.flooded >= FLOODED_FROM, floods.flooded == 0
    after = np.asarray(floods.after * 2 - 1, dtype=np.float32)
    before = np.asarray(floods.before[much] * 2 - 1, dtype=np.float32)
    energy = Energy().score(after, _all(after)).score
    points: list[SweepPoint] = []
    for solver, steps, ratio in grid.settings():
        settings = settings_of(run.config, steps=steps, ratio=ratio, solver=solver)
        odeed = Odeed(denoiser, settings, feature_distance=Embedder(encoder).distance)
        now, earlier = _scores(odeed, after), _scores(odeed, before)
        for distance in now:
            score = np.nan_to_num(now[distance], posinf=1e30)
            point = SweepPoint(
                run=run.path.name,
                events=tuple(events),
                solver=solver,
                steps=steps,
                ratio=ratio,
                distance=distance,
                nfe=odeed.nfe,
                flooded_vs_dry=auroc(score[much], score[none]),
                after_vs_before=auroc(score[much], np.nan_to_num(earlier[distance], posinf=1e30)),
                energy_correlation=_spearman(score, energy),
                n_pos=int(much.sum()),
                n_neg=int(none.sum()),
            )
            points.append(point)
            say(point)
    return points


def knee(points: Sequence[SweepPoint], most: int = 16) -> SweepPoint:
    """The cheapest setting whose mean worth over the runs is within :data:`KNEE` of the best at ``most`` evaluations.

    The point of the first run of that setting is returned.
    """
    by_setting: dict[tuple[SolverName, int, float, str], list[SweepPoint]] = {}
    for point in points:
        if point.nfe <= most and point.distance == "mse":
            by_setting.setdefault((point.solver, point.steps, point.ratio, point.distance), []).append(point)
    worth = {key: float(np.mean([point.worth for point in found])) for key, found in by_setting.items()}
    best = max(worth.values())
    good = [key for key, value in worth.items() if value >= best - KNEE]
    return by_setting[min(good, key=lambda key: (evaluations(key[0], key[1]), -worth[key]))][0]


def _scores(odeed: Odeed, x: Float32Array) -> dict[str, Float32Array]:
    parts = [odeed.score(x[i : i + BATCH], _all(x[i : i + BATCH])) for i in range(0, len(x), BATCH)]
    distances = [part.feature_distance for part in parts if part.feature_distance is not None]
    return {"mse": np.concatenate([part.score for part in parts]), "xstars": np.concatenate(distances)}


def _spearman(a: Float32Array, b: Float32Array) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def _all(x: Float32Array) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return np.ones((len(x), *x.shape[2:]), dtype=np.bool_)
