"""Is a tile flooded? Two small logistic models of its spectrum, fitted on mapped floods of other events.

``now`` asks whether the tile looks like flood water, ``gain`` whether it differs from the place's earlier looks as
flooded ground does. A flood is both at once: permanent water looks like a flood and has not changed, a harvested field
has changed and looks like no flood. So a place that is known is judged by the smaller of the two log odds, smoothed::

    s = -ln(exp(-k now) + exp(-k gain)) / k

These are the only numbers of the detector that were fitted on labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from engine.errors import BundleError
from engine.tiles import Float32Array

SHARPNESS = 2.0
"""k above: at log odds of some units the result is within 0.35 of the smaller of the two."""

ARRAYS = ("flood_now", "flood_gain")
"""Names in a bundle's calibration file."""


@dataclass(frozen=True, kw_only=True)
class FloodModel:
    """Log odds of flood from the features of :mod:`engine.spectrum`."""

    now: Float32Array
    """A weight for each feature, then the bias.  (K + 1,)"""
    gain: Float32Array
    """The same for the features' differences from earlier looks.  (K + 1,)"""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Float32Array], features: int) -> Self | None:
        """The model that a bundle's calibration arrays hold; None where a family has none.

        Raises:
            BundleError: its weights do not fit the number of features.
        """
        if not all(name in arrays for name in ARRAYS):
            return None
        now, gain = (arrays[name] for name in ARRAYS)
        if now.shape != (features + 1,) or gain.shape != (features + 1,):
            raise BundleError(
                f"the flood model has {now.shape} and {gain.shape} weights for {features} features; one for each and a "
                "bias are expected: export the bundle again"
            )
        return cls(now=now, gain=gain)

    def of_look(self, spectrum: Float32Array) -> Float32Array:
        """Log odds from one look.  (..., K) -> (...)"""
        return _log_odds(self.now, spectrum)

    def of_change(self, spectrum: Float32Array, earlier: Float32Array) -> Float32Array:
        """Log odds from a look and the place's usual spectrum; NaN where either is unknown.  (..., K) -> (...)"""
        now, gain = self.of_look(spectrum), _log_odds(self.gain, spectrum - earlier)
        # A cell without an earlier look is NaN and stays it; numpy would warn of each.
        with np.errstate(invalid="ignore"):
            joined = -np.logaddexp(-SHARPNESS * now, -SHARPNESS * gain) / SHARPNESS
        return np.asarray(joined, dtype=np.float32)


def _log_odds(weights: Float32Array, features: Float32Array) -> Float32Array:
    return np.asarray(features @ weights[:-1] + weights[-1], dtype=np.float32)
