"""Fits the flood model (:mod:`engine.flood`) on tiles before and after mapped floods, under varied light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.flood import FloodModel
from engine.spectrum import spectrum_of
from engine.tiles import Float32Array, Tile, TileBatch
from training.data.heldout import FloodTiles
from training.flood.logistic import fit_logistic

Light = tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]
"""Gain and offset in reflectance, of each tile or of all."""

_AS_IT_IS: Light = (np.ones(1), np.zeros(1))

PART = 256
"""Tiles that are relit at once."""

FLOODED = 0.25
"""Share of a tile that is mapped as flooded, from which it counts as flooded. A dry one has 0."""


@dataclass(frozen=True, kw_only=True)
class FloodFit:
    """How the flood model is fitted."""

    penalty: float = 0.1
    """L2, on standardised features: chosen among 0.001, 0.01 and 0.1 by leaving out one event after the other."""
    draws: int = 3
    """Lights that each tile is seen in, beside its own."""
    gain: float = 0.15
    """Half width of the uniform log gain, common to all bands and to both looks."""
    offset: float = 0.015
    """Half width of the uniform offset in reflectance, likewise."""
    between: float = 0.05
    """Half width of the further log gain between the two looks."""


@dataclass(frozen=True, kw_only=True)
class FloodExamples:
    """Features of tiles before and after, in one light or several."""

    before: Float32Array
    """(n, K)"""
    after: Float32Array
    """(n, K)"""
    flooded: Float32Array
    """Mapped share, 0..1.  (n,)"""
    events: npt.NDArray[np.str_]
    """Event block of each tile.  (n,)"""

    def of_events(self, events: Sequence[str], *, but: bool = False) -> FloodExamples:
        """The tiles of some events, or of all others."""
        keep = np.isin(self.events, list(events)) ^ but
        return FloodExamples(
            before=self.before[keep], after=self.after[keep], flooded=self.flooded[keep], events=self.events[keep]
        )


def examples_of(
    tiles: FloodTiles, bands: Sequence[str], how: FloodFit | None = None, rng: np.random.Generator | None = None
) -> FloodExamples:
    """Features of tiles as they are, and with ``how`` also in as many other lights as it says."""
    n = len(tiles)
    lights: list[tuple[Light, Light]] = [(_AS_IT_IS, _AS_IT_IS)]
    if how is not None and rng is not None:
        for _ in range(how.draws):
            gain = rng.uniform(-how.gain, how.gain, n)
            offset = rng.uniform(-how.offset, how.offset, n)
            between = rng.uniform(-how.between, how.between, n) / 2
            lights.append(((np.exp(gain - between), offset), (np.exp(gain + between), offset)))
    return FloodExamples(
        before=np.concatenate([_in_light(tiles.before, light, bands) for light, _ in lights]),
        after=np.concatenate([_in_light(tiles.after, light, bands) for _, light in lights]),
        flooded=np.tile(tiles.flooded, len(lights)),
        events=np.tile(np.asarray(tiles.events), len(lights)),
    )


def _in_light(tiles: Float32Array, light: Light, bands: Sequence[str]) -> Float32Array:
    """Features of tiles in another light, part by part: all at once would take gigabytes.  (n, K)"""
    gain, offset = (np.broadcast_to(part, len(tiles)).reshape(-1, 1, 1, 1) for part in light)
    return np.concatenate(
        [
            features_of(relit(tiles[at : at + PART], gain[at : at + PART], offset[at : at + PART]), bands)
            for at in range(0, len(tiles), PART)
        ]
    )


def fit_flood_model(examples: FloodExamples, how: FloodFit) -> FloodModel:
    """Fit ``now`` and ``gain``.

    ``now``: flooded after-tiles against dry after-tiles and all before-tiles. ``gain``: the differences of flooded
    tiles against those of dry ones, and against all differences backwards in time, which are no floods. Tiles flooded
    by less than :data:`FLOODED` are left out of the after-images. An event counts by the square root of its tiles, so
    that a large one does not decide alone.

    Raises:
        TrainingDataInvalid: there is no flooded or no dry tile.
    """
    much, none = examples.flooded >= FLOODED, examples.flooded == 0
    change = examples.after - examples.before
    return FloodModel(
        now=_fit(examples.after[much], (examples.after[none], examples.before), examples.events, much, none, how),
        gain=_fit(change[much], (change[none], -change), examples.events, much, none, how),
    )


def _fit(
    positive: Float32Array,
    negatives: tuple[Float32Array, Float32Array],
    events: npt.NDArray[np.str_],
    much: npt.NDArray[np.bool_],
    none: npt.NDArray[np.bool_],
    how: FloodFit,
) -> Float32Array:
    features = np.concatenate([positive, *negatives])
    is_positive = np.arange(len(features)) < len(positive)
    weights = np.concatenate([_event_weights(events[much]), _event_weights(np.concatenate([events[none], events]))])
    return fit_logistic(features, is_positive, weights, penalty=how.penalty).astype(np.float32)


def _event_weights(events: npt.NDArray[np.str_]) -> npt.NDArray[np.float64]:
    """Weights of tiles whose sum over an event is the square root of its number of tiles.  (n,)"""
    _, inverse, count = np.unique(events, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / np.sqrt(count[inverse]))


def relit(
    tiles: Float32Array, gain: npt.NDArray[np.floating] | float, offset: npt.NDArray[np.floating] | float
) -> Float32Array:
    """Reflectance tiles in another light, clipped to 0..1."""
    return np.asarray(np.clip(tiles * gain + offset, 0, 1), dtype=np.float32)


def features_of(tiles: Float32Array, bands: Sequence[str]) -> Float32Array:
    """Features of complete reflectance tiles (n, C, H, W), as the engine makes them.  (n, K)"""
    n, _, height, width = tiles.shape
    # Training tiles lie nowhere on earth; features read pixels alone.
    nowhere = Tile(
        cell_id="", row=0, col=0, crs="EPSG:32631", transform=(10, 0, 0, 0, -10, 0), size_px=height, valid_ratio=1
    )
    return spectrum_of(
        TileBatch(
            tiles=(nowhere,) * n,
            pixels=tiles,
            valid=np.ones((n, height, width), dtype=np.bool_),
            bands=tuple(bands),
            gsd_m=10,
        ),
        bands,
    )
