"""ODEED: how badly an image survives being encoded to high noise and decoded again.

Le Bellier & Audebert, "Detecting Out-Of-Distribution Earth Observation Images with Diffusion Models" (EarthVision 2024,
arXiv 2404.12667): encode with the probability-flow ODE up to sigma_max, decode back, score d(x, x_hat). No noise
is drawn, so an image has one score. With an exact solver the round trip is the identity; the score is the solver's
discretisation error, so solver, steps and sigma_max are hyper-parameters of the detector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np

from engine.errors import InputMismatch
from engine.ode import SOLVERS, Denoise, Schedule, SolverName, encode_decode, karras_sigmas
from engine.runners.base import RoundTrips, Runner
from engine.tiles import BoolArray, Float32Array

FeatureDistance = Callable[[Float32Array, Float32Array], Float32Array]
"""Distance of two image batches (N, C, H, W) in [-1, 1], one number an image (N,); see :mod:`engine.embed`."""


@dataclass(frozen=True, kw_only=True)
class OdeedSettings:
    """What fixes the score beside the network."""

    solver: SolverName = "euler"
    """``euler`` or ``heun``, on both legs."""
    steps: int = 5
    """Steps of one leg; more is nearer to the identity, not better."""
    sigma_min: float = 0.002
    """Noise level at which an image is taken for clean."""
    sigma_max: float = 20.0
    """Noise level to which an image is encoded."""
    rho: float = 7.0
    """Exponent of the grid, Karras et al. 2022, equation 5."""

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise InputMismatch(f"no solver {self.solver!r}; there are {', '.join(SOLVERS)}")
        self.schedule()

    def schedule(self) -> Schedule:
        """The noise levels of both legs."""
        return karras_sigmas(self.steps, self.sigma_min, self.sigma_max, self.rho)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            InputMismatch: an unknown key, solver, or impossible grid.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise InputMismatch(f"ODEED settings have unknown keys {sorted(unknown)}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class ScoreBatch:
    """Scores of N tiles; higher is stranger."""

    score: Float32Array
    """One number a tile; NaN for a tile without any valid pixel, which has no score.  (N,)"""
    error_map: Float32Array
    """Squared error, mean over the C channels; finite everywhere, 0 where not valid.  (N, H, W)"""
    nfe: int
    """Evaluations of the network for each tile."""
    feature_distance: Float32Array | None = None
    """Distance of image and reconstruction in a feature space, where one was asked for.  (N,)"""


class Odeed:
    """Scores tiles with an opened denoiser, which stays the caller's to close."""

    name = "odeed"

    def __init__(
        self, denoiser: Runner, settings: OdeedSettings, *, feature_distance: FeatureDistance | None = None
    ) -> None:
        self.settings = settings
        self._denoiser = denoiser
        self._schedule = settings.schedule()
        self._feature_distance = feature_distance

    @property
    def nfe(self) -> int:
        """Evaluations of the network for each tile."""
        return 2 * self.settings.steps * (2 if self.settings.solver == "heun" else 1)

    def score(self, x: Float32Array, valid: BoolArray, cond: Float32Array | None = None) -> ScoreBatch:
        """Score a batch of tiles.

        The network sees invalid pixels too, at whatever value they have; only their errors are left out.

        Args:
            x: tiles in [-1, 1].  (N, C, H, W)
            valid: True where a pixel counts.  (N, H, W)
            cond: what is known of the place from before (:mod:`engine.condition`), if the denoiser takes one; None:
                nothing.  (N, cond_chans, H, W)

        Raises:
            InputMismatch: an array is not what the denoiser declares.
        """
        reconstruction = round_trip(self._denoiser, x, self._schedule, self.settings.solver, cond)
        score, error_map = masked_mse(x, reconstruction, valid)
        distance = None if self._feature_distance is None else self._feature_distance(x, reconstruction)
        return ScoreBatch(score=score, error_map=error_map, nfe=self.nfe, feature_distance=distance)


def round_trip(
    denoiser: Runner, x: Float32Array, schedule: Schedule, solver: SolverName, cond: Float32Array | None = None
) -> Float32Array:
    """Images encoded up the schedule and decoded again, on the runner's device where it can do that.  (N, C, H, W)"""
    if isinstance(denoiser, RoundTrips):
        feeds = {"x": x} | _condition(denoiser, x, cond)
        return np.asarray(denoiser.round_trip(feeds, schedule, solver), dtype=np.float32)
    trip = encode_decode(denoise_with(denoiser, cond), x, schedule, solver)
    reconstruction: Float32Array = trip.reconstruction
    return reconstruction


def denoise_with(denoiser: Runner, cond: Float32Array | None = None) -> Denoise:
    """D(x; sigma) of an opened denoiser, as the solvers call it.

    A denoiser that takes a condition is told that nothing is known where none is given (:mod:`engine.condition`).
    """

    def denoise(x: Float32Array, sigma: float) -> Float32Array:
        feeds = {"x": x, "sigma": np.full(len(x), sigma, dtype=np.float32)} | _condition(denoiser, x, cond)
        denoised: Float32Array = denoiser.run(feeds)["denoised"]
        return denoised

    return denoise


def _condition(denoiser: Runner, x: Float32Array, cond: Float32Array | None) -> dict[str, Float32Array]:
    if cond is not None:
        return {"cond": cond}
    takes = next((spec for spec in denoiser.spec.inputs if spec.name == "cond"), None)
    return {} if takes is None else {"cond": np.zeros((len(x), *takes.shape[1:]), dtype=np.float32)}


def masked_mse(x: Float32Array, other: Float32Array, valid: BoolArray) -> tuple[Float32Array, Float32Array]:
    """Mean squared difference over valid pixels (N,), NaN where there is none, and its map (N, H, W).

    Raises:
        InputMismatch: the mask does not belong to these images.
    """
    if x.ndim != 4 or valid.dtype != np.bool_ or valid.shape != (x.shape[0], *x.shape[2:]):
        raise InputMismatch(f"mask {valid.dtype}{valid.shape} does not belong to images {x.shape}; bool (N, H, W) does")
    difference = other - x
    error_map = np.where(valid, np.mean(difference * difference, axis=1), 0.0).astype(np.float32)
    count = valid.sum(axis=(1, 2))
    total = error_map.sum(axis=(1, 2), dtype=np.float64)
    score = np.full(len(x), np.nan, dtype=np.float32)
    np.divide(total, count, out=score, where=count > 0, casting="unsafe")
    return score, error_map
