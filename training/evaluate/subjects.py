"""The scorers that ``vigie evaluate ood`` judges, as subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from engine.odeed import Odeed, OdeedSettings
from engine.runners.base import Runner
from engine.scorers.base import PairedScorer, Scorer
from engine.scorers.baselines import OneStepDenoising
from engine.scorers.controls import DarkShare, Energy, MeanBand, MeanColour, PngSize, Sharpness, WaterIndex
from training.evaluate.ood import Kind, Paired, Result, Subject, Unpaired

Float32Array = npt.NDArray[np.float32]

BATCH = 8
"""Tiles of one call of a network: on a CPU, larger batches fall out of the caches and are slower."""


def unpaired(scorer: Scorer, *, negated: bool = False) -> Unpaired:
    """A scorer as it is called here: reflectance in, batch by batch."""

    def call(tiles: Float32Array) -> Result:
        x = np.asarray(tiles * 2 - 1, dtype=np.float32)
        parts = [scorer.score(part, _all(part)) for part in _batches(x)]
        maps = [part.error_map for part in parts if part.error_map is not None]
        scores = np.concatenate([part.score for part in parts])
        return (-scores if negated else scores), (np.concatenate(maps) if len(maps) == len(parts) else None)

    return call


def paired(scorer: PairedScorer) -> Paired:
    """A paired scorer as it is called here."""

    def call(now: Float32Array, earlier: Float32Array) -> Result:
        x, y = (np.asarray(tiles * 2 - 1, dtype=np.float32) for tiles in (now, earlier))
        parts = [scorer.score(a, _all(a), b, _all(b)) for a, b in zip(_batches(x), _batches(y), strict=True)]
        maps = [part.error_map for part in parts if part.error_map is not None]
        scores = np.concatenate([part.score for part in parts])
        return scores, (np.concatenate(maps) if len(maps) == len(parts) else None)

    return call


def difference(scorer: Scorer) -> Paired:
    """How much more a scorer finds now than before: the control of places that are known."""
    single = unpaired(scorer)

    def call(now: Float32Array, earlier: Float32Array) -> Result:
        (a, a_map), (b, b_map) = single(now), single(earlier)
        return a - b, (None if a_map is None or b_map is None else a_map - b_map)

    return call


def controls_of(bands: Sequence[str], calibration: Mapping[str, Float32Array]) -> list[Subject]:
    """The controls that these bands allow, those of two looks included.

    Args:
        bands: of the tiles, in their order.
        calibration: arrays of normal tiles; the distance of the mean colour needs ``normal_colour`` (n, C), of tiles
            in [-1, 1].
    """
    found: list[tuple[Scorer, bool, bool]] = [(Energy(), True, True)]
    if "normal_colour" in calibration:
        found.append((MeanColour.of(calibration["normal_colour"]), True, True))
    pairs: list[Scorer] = []
    if "swir16" in bands:
        dark = DarkShare(band=bands.index("swir16"), name="dark-swir")
        found.append((dark, True, False))
        pairs.append(dark)
    if "nir" in bands:
        found.append((MeanBand(band=bands.index("nir")), True, False))
        pairs.append(MeanBand(band=bands.index("nir")))
    if "red" in bands and "swir16" in bands:
        index = WaterIndex(visible=bands.index("red"), infrared=bands.index("swir16"))
        found.append((index, True, True))
        pairs.append(index)
    found += [(Sharpness(), True, False), (PngSize(), False, False)]
    single = [
        Subject(name=scorer.name, kind="control", unpaired=unpaired(scorer), pixels=pixels, reference=reference)
        for scorer, pixels, reference in found
    ]
    return single + [
        Subject(name=f"{scorer.name}-difference", kind="control", paired=difference(scorer), pixels=True)
        for scorer in pairs
    ]


def networks_of(denoiser: Runner, settings: OdeedSettings, sigma_data: float) -> list[Subject]:
    """The scorers of the ODEED paper, from one opened denoiser."""
    scorers: list[tuple[Scorer, Kind]] = [
        (OneStepDenoising(denoiser=denoiser, sigma=sigma_data), "unpaired"),
        (Odeed(denoiser, settings), "unpaired"),
    ]
    return [
        Subject(
            name=scorer.name,
            kind=kind,
            unpaired=unpaired(scorer),
            nfe=scorer.nfe,
            expensive=True,
            pixels=True,
            logarithmic=True,
        )
        for scorer, kind in scorers
    ]


def _batches(x: Float32Array) -> list[Float32Array]:
    return [x[start : start + BATCH] for start in range(0, len(x), BATCH)]


def _all(x: Float32Array) -> npt.NDArray[np.bool_]:
    return np.ones((len(x), *x.shape[2:]), dtype=np.bool_)
