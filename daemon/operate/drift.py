"""Score drift: whether a sensor's latest tiles still look like those that its model was calibrated on.

The p-value of a tile against the calibration sample is uniform between 0 and 1 while new tiles are like the
sample (Vovk et al. 2005, conformal prediction). The Kolmogorov-Smirnov distance from uniform therefore measures drift
of imagery, processing or model in one number, whatever the scale of the scores.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.tiles import Float32Array

WINDOW_TILES = 5_000
"""Last tiles of a sensor that are looked at: some scenes of a usual area, so that one flood does not fill it."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How the last tiles of a sensor stand to its calibration."""

    tiles: int
    """How many tiles this is about."""
    mean_p_value: float
    """0.5 where they are like the calibration; smaller: stranger."""
    distance: float
    """Largest distance between the p-values' distribution and the uniform one, 0..1."""


class DriftWatch:
    """Keeps the last p-values of each sensor. May be called from any thread."""

    def __init__(self, *, window_tiles: int = WINDOW_TILES) -> None:
        self._window_tiles = window_tiles
        self._last: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def add(self, sensor: str, scores: Float32Array, calibration: Mapping[str, Float32Array]) -> Drift | None:
        """Take the ODEED scores of a scene's tiles; return how the sensor stands, None where that cannot be said.

        Args:
            sensor: name of the sensor.
            scores: (n,); what is not finite is left out.
            calibration: arrays of the sensor's family; ``odeed`` (m,) holds the scores of normal tiles.
        """
        sample = np.sort(calibration["odeed"][np.isfinite(calibration["odeed"])])
        finite = scores[np.isfinite(scores)]
        if not len(sample) or not len(finite):
            return None
        as_strange = len(sample) - np.searchsorted(sample, finite, side="left")
        # The middle of the steps that a sample of m leaves, so that tiles like the sample have a mean of one half.
        p_values = (as_strange + 0.5) / (len(sample) + 1)
        with self._lock:
            last = self._last.setdefault(sensor, deque(maxlen=self._window_tiles))
            last.extend(p_values.tolist())
            kept = np.sort(np.asarray(last, dtype=np.float64))
        return Drift(tiles=len(kept), mean_p_value=float(kept.mean()), distance=_from_uniform(kept))


def _from_uniform(ascending: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """The one-sample Kolmogorov-Smirnov statistic against the uniform distribution on [0, 1]."""
    n = len(ascending)
    above = np.arange(1, n + 1) / n - ascending
    below = ascending - np.arange(n) / n
    return float(max(above.max(), below.max()))
