"""Mean and standard deviation of each band of a sensor, and images of several sensors brought to common ones.

X-STARS standardises each sensor by its own moments. What Vigie serves takes reflectance in [-1, 1], so here a sensor
is brought to the moments of all sensors together instead: ``m + s (x - m_k) / s_k``. That differs from the paper's
``(x - m_k) / s_k`` by one affine change common to all sensors, which the patch embedding absorbs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.errors import TrainingDataInvalid

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Of numbers from 0 to 1, one entry per band."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def pooled(sensors: Sequence[Moments]) -> Moments:
    """The moments of a mixture in which each sensor has the same share.

    Raises:
        TrainingDataInvalid: the sensors differ in their number of bands.
    """
    if len({len(one.mean) for one in sensors}) != 1:
        raise TrainingDataInvalid(
            f"moments of {[len(one.mean) for one in sensors]} bands cannot be pooled; choose as many bands of each"
        )
    mean = [sum(values) / len(sensors) for values in zip(*(one.mean for one in sensors), strict=True)]
    squares = [
        sum(s * s + m * m for s, m in values) / len(sensors)
        for values in zip(*(zip(one.std, one.mean, strict=True) for one in sensors), strict=True)
    ]
    return Moments(
        mean=tuple(mean),
        std=tuple(math.sqrt(max(0.0, square - m * m)) for square, m in zip(squares, mean, strict=True)),
    )


def matched(values: Float32Array, own: Moments, common: Moments) -> Float32Array:
    """Numbers of one sensor, (C, H, W), as a sensor of the ``common`` moments would have them; clipped to 0..1."""
    mean, std, to_mean, to_std = (
        np.asarray(one, dtype=np.float32)[:, None, None] for one in (own.mean, own.std, common.mean, common.std)
    )
    return np.clip(to_mean + to_std * (values - mean) / std, 0, 1).astype(np.float32)
