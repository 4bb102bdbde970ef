"""The questions that a look is asked, each with a statistic of its own: is it strange, and is it flooded?

A *track* gives, on each of the three bases of :mod:`engine.judge`, the statistic of the look's cells and of what is
normal there. ``anomaly`` needs no label; ``flood`` is a model fitted on mapped floods, for families that know water.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from engine.change import (
    DETREND_MIN_TILES,
    Change,
    Scales,
    Weights,
    change_from,
    changes_within,
    median_of_looks,
)
from engine.flood import FloodModel
from engine.look import Look
from engine.reference import Reference, log_score
from engine.tiles import Float32Array

Kind = Literal["flood", "anomaly"]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The statistic of some cells, and of what is normal for them."""

    now: Float32Array
    """(n,)"""
    normal: Float32Array
    """(n, L) over a place's own looks, or (m,) over the sensor family's tiles."""
    z: Change | None = None
    """The parts of an anomaly in robust standard deviations, where there is an earlier look."""


class Track(Protocol):
    """One question."""

    @property
    def kind(self) -> Kind:
        """What a tile is that is flagged by it."""

    def place(self, rows: Rows) -> Compared:
        """Cells against their own history, each earlier look against the others."""

    def pair(self, rows: Rows) -> Compared:
        """Cells against pairs of looks of the sensor family on which nothing had happened."""

    def single(self, rows: Rows) -> Compared:
        """Cells never seen before against normal tiles of the sensor family."""


@dataclass(frozen=True, kw_only=True)
class AnomalyTrack:
    """The joined change of :mod:`engine.change`; without an earlier look, the ODEED score."""

    look: Look
    reference: Reference
    arrays: Mapping[str, Float32Array]
    """The bundle's calibration of the sensor family."""
    weights: Weights
    kind: Kind = "anomaly"

    @cached_property
    def change(self) -> Change:
        """How the look differs from its reference."""
        return change_from(log_score(self.look.odeed), self.look.water, self.look.cls, self.reference)

    def place(self, rows: Rows) -> Compared:
        """See :class:`Track`."""
        past = _take(changes_within(self.reference), rows)
        return self._compared(rows, past)

    def pair(self, rows: Rows) -> Compared:
        """See :class:`Track`."""
        arrays = self.arrays
        unknown = np.full(len(arrays["pair_odeed_a"]), np.nan, np.float32)
        normal = Change(
            odeed=log_score(arrays["pair_odeed_b"]) - log_score(arrays["pair_odeed_a"]),
            xstars=arrays["pair_cls_distance"],
            water=arrays["pair_water_b"] - arrays["pair_water_a"] if "pair_water_a" in arrays else unknown,
        )
        return self._compared(rows, normal)

    def single(self, rows: Rows) -> Compared:
        """See :class:`Track`.

        A place may be harder to reconstruct than the calibration's places as a whole: another land, another camera.
        That is no event. So where the scene shows tiles enough, what its median lies above the calibration's is
        taken off; what stands out then is strange both for the sensor and for its own surroundings.
        """
        normal = log_score(self.arrays["odeed"])
        scores = log_score(self.look.odeed)
        shift = float(np.median(scores) - np.median(normal)) if len(scores) >= DETREND_MIN_TILES else 0.0
        return Compared(now=scores[rows] - np.float32(max(shift, 0.0)), normal=normal)

    def _compared(self, rows: Rows, normal: Change) -> Compared:
        scales = Scales.of(normal)
        now = _take(self.change, rows)
        return Compared(
            now=scales.joined(now, self.weights), normal=scales.joined(normal, self.weights), z=scales.z(now)
        )


@dataclass(frozen=True, kw_only=True)
class FloodTrack:
    """The log odds of :class:`~engine.flood.FloodModel`."""

    model: FloodModel
    look: Look
    reference: Reference
    arrays: Mapping[str, Float32Array]
    """The bundle's calibration: ``spectrum`` (n, K), ``pair_spectrum_a`` and ``pair_spectrum_b`` (m, K)."""
    kind: Kind = "flood"

    def place(self, rows: Rows) -> Compared:
        """See :class:`Track`."""
        looks = self.reference.spectrum[rows]  # (n, L, K)
        normal = np.full(looks.shape[:2], np.nan, dtype=np.float32)
        if looks.shape[1] > 1:
            for j in range(looks.shape[1]):
                others = usual_spectrum(np.delete(looks, j, axis=1))
                normal[:, j] = self.model.of_change(looks[:, j], others)
        return Compared(now=self.statistic()[rows], normal=normal)

    def pair(self, rows: Rows) -> Compared:
        """See :class:`Track`."""
        normal = self.model.of_change(self.arrays["pair_spectrum_b"], self.arrays["pair_spectrum_a"])
        return Compared(now=self.statistic()[rows], normal=normal)

    def single(self, rows: Rows) -> Compared:
        """See :class:`Track`."""
        return Compared(
            now=self.model.of_look(self.look.spectrum[rows]), normal=self.model.of_look(self.arrays["spectrum"])
        )

    def statistic(self) -> Float32Array:
        """Log odds against the reference; NaN where a cell has none.  (N,)"""
        if not self.reference.looks:
            return np.full(len(self.look), np.nan, dtype=np.float32)
        return self.model.of_change(self.look.spectrum, usual_spectrum(self.reference.spectrum))


def usual_spectrum(looks: Float32Array) -> Float32Array:
    """Median of each feature over looks, NaN where none is known.  (n, L, K) -> (n, K)"""
    n, count, features = looks.shape
    flat = looks.transpose(0, 2, 1).reshape(n * features, count)
    return median_of_looks(flat).reshape(n, features)


def tracks_of(
    look: Look, reference: Reference, arrays: Mapping[str, Float32Array], weights: Weights
) -> tuple[AnomalyTrack, FloodTrack | None]:
    """The questions that a sensor family's calibration can answer."""
    model = FloodModel.from_arrays(arrays, look.spectrum.shape[1])
    if model is None:
        return AnomalyTrack(look=look, reference=reference, arrays=arrays, weights=weights), None
    anomaly = AnomalyTrack(look=look, reference=reference, arrays=arrays, weights=replace(weights, water=0.0))
    return anomaly, FloodTrack(model=model, look=look, reference=reference, arrays=arrays)


def _take(change: Change, rows: Rows) -> Change:
    return Change(odeed=change.odeed[rows], xstars=change.xstars[rows], water=change.water[rows])
