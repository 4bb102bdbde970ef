"""From 8-bit display numbers to reflectance, by matching quantiles: an assumption, and stated as one.

OMBRIA's images are 8-bit renderings whose stretch is not published. If they show ordinary land, then their quantiles
should be those of ordinary land in reflectance. Sentinel-2 samples of other places say what those are. Land differs
from place to place, so :class:`QuantileGains` carries how far the references disagree.

One gain for all bands is the default: renderings usually stretch all bands alike, it leaves every ratio of bands (and
so every water index) as it was, and two references of different land agree on it far better than on a gain per band.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.errors import TrainingDataInvalid

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles that are matched; the extremes are cloud, glint and shadow, which places share least."""

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class QuantileGains:
    """Reflectance per 8-bit number, by band."""

    bands: tuple[str, ...]
    gains: tuple[float, ...]
    by_reference: Mapping[str, tuple[float, ...]]
    """The gains that each reference alone would give: their spread is the assumption's uncertainty."""


def match_quantiles(
    numbers: FloatArray, references: Mapping[str, FloatArray], bands: tuple[str, ...], *, per_band: bool = False
) -> QuantileGains:
    """The gains g that bring the quantiles of ``g * numbers`` nearest to the references'.

    Nearest in log: ``ln g`` is the mean over :data:`LEVELS` of ``ln(reference quantile / number quantile)``, over the
    bands too unless ``per_band``, then over references, each of which counts the same however many pixels it has.

    Args:
        numbers: 8-bit pixels, (n, C).
        references: reflectance pixels 0..1 of other places, by name, (m, C) each.
        bands: names of the C bands.
        per_band: a gain for each band instead of one for all.

    Raises:
        TrainingDataInvalid: no reference, or a quantile that is not above 0.
    """
    if not references:
        raise TrainingDataInvalid("no reference images to match quantiles with; give at least one")
    ours = np.quantile(numbers, LEVELS, axis=0)  # (L, C)
    logs: dict[str, npt.NDArray[np.float64]] = {}
    for name, pixels in references.items():
        theirs = np.quantile(pixels, LEVELS, axis=0)
        if (ours <= 0).any() or (theirs <= 0).any():
            raise TrainingDataInvalid(f"a quantile of the images or of {name} is not above 0; leave out missing ground")
        by_band = np.log(theirs / ours).mean(axis=0)  # (C,)
        logs[name] = by_band if per_band else np.full_like(by_band, by_band.mean())
    mean = np.mean(list(logs.values()), axis=0)
    return QuantileGains(
        bands=bands,
        gains=tuple(float(g) for g in np.exp(mean)),
        by_reference={name: tuple(float(g) for g in np.exp(log)) for name, log in logs.items()},
    )
