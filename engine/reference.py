"""A reference: the earlier looks of a place that a new one is compared with, pinned and immutable."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from engine.look import Look
from engine.tiles import Float32Array

_NAMESPACE = uuid.UUID("0f0b3a52-3f43-5b0e-8b5d-5d7ad8f31c6e")


@dataclass(frozen=True, kw_only=True)
class EarlierLook:
    """One look of a reference."""

    scene_id: str
    """Scene version that gave it."""
    sensing_time: datetime
    """Aware UTC."""
    look: Look


def reference_id(*, area: str, family: str, model_hash: str, scene_ids: Sequence[str]) -> str:
    """Identity of a reference: a UUIDv5 of what it consists of, so that equal references are equal everywhere."""
    looks = ",".join(sorted(scene_ids))
    return str(uuid.uuid5(_NAMESPACE, f"{area}|{family}|{model_hash}|{looks}"))


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Earlier looks of one area through one sensor family, as arrays over cells and looks."""

    reference_id: str
    looks: tuple[EarlierLook, ...]
    """Sorted by sensing time, oldest first."""
    cell_ids: tuple[str, ...]
    """The N cells asked for, in the order of the arrays."""
    odeed: Float32Array
    """Natural log of the raw ODEED score; NaN where a look does not show the cell.  (N, L)"""
    water: Float32Array
    """Share of open water; NaN where not shown or not known.  (N, L)"""
    cls: Float32Array
    """Unit embeddings; NaN where not shown.  (N, L, D)"""
    spectrum: Float32Array
    """Features of :mod:`engine.spectrum`; NaN where not shown.  (N, L, K)"""

    @classmethod
    def over(cls, cell_ids: Sequence[str], looks: Sequence[EarlierLook], *, reference_id: str) -> Reference:
        """The reference's arrays over ``cell_ids``."""
        ordered = tuple(sorted(looks, key=lambda earlier: (earlier.sensing_time, earlier.scene_id)))
        n, count = len(cell_ids), len(ordered)
        dim = max((earlier.look.cls.shape[1] for earlier in ordered if len(earlier.look)), default=0)
        odeed = np.full((n, count), np.nan, dtype=np.float32)
        water = np.full((n, count), np.nan, dtype=np.float32)
        embedding = np.full((n, count, dim), np.nan, dtype=np.float32)
        features = max((earlier.look.spectrum.shape[1] for earlier in ordered if len(earlier.look)), default=0)
        spectrum = np.full((n, count, features), np.nan, dtype=np.float32)
        for column, earlier in enumerate(ordered):
            rows = [(i, earlier.look.row(cell)) for i, cell in enumerate(cell_ids)]
            shown = [(i, row) for i, row in rows if row is not None]
            if not shown:
                continue
            to, source = (np.asarray(part) for part in zip(*shown, strict=True))
            odeed[to, column] = log_score(earlier.look.odeed[source])
            water[to, column] = earlier.look.water[source]
            embedding[to, column] = earlier.look.cls[source]
            spectrum[to, column] = earlier.look.spectrum[source]
        return cls(
            reference_id=reference_id,
            looks=ordered,
            cell_ids=tuple(cell_ids),
            odeed=odeed,
            water=water,
            cls=embedding,
            spectrum=spectrum,
        )

    def without(self, column: int) -> Reference:
        """The reference of all looks but one."""
        rest = [i for i in range(len(self.looks)) if i != column]
        return Reference(
            reference_id=self.reference_id,
            looks=tuple(self.looks[i] for i in rest),
            cell_ids=self.cell_ids,
            odeed=self.odeed[:, rest],
            water=self.water[:, rest],
            cls=self.cls[:, rest],
            spectrum=self.spectrum[:, rest],
        )

    @property
    def looks_per_cell(self) -> npt.NDArray[np.int64]:
        """How many looks show each cell.  (N,)"""
        count: npt.NDArray[np.int64] = np.isfinite(self.odeed).sum(axis=1, dtype=np.int64)
        return count


def log_score(score: Float32Array) -> Float32Array:
    """Natural log of a raw reconstruction error, floored far below any error seen, so that 0 stays finite."""
    return np.log(np.maximum(score, 1e-12)).astype(np.float32)
