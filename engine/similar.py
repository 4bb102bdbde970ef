"""Which earlier tiles look most like a tile: exact nearest neighbours by cosine in the X-STARS space.

Two callers with two needs. An alert's evidence compares a few tiles with a pinned reference and must come out the
same everywhere, so it works in double precision and rounds (:func:`most_similar`). A search goes through all looks
ever stored, so it takes one after the other and keeps only the best (:class:`Nearest`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputMismatch
from engine.reference import EarlierLook
from engine.tiles import Float32Array

DECIMALS = 6
"""Of a cosine in an alert: far coarser than the rounding of a sum, so the order is the same on every machine."""
_BINS = 4000
_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class SimilarTile:
    """An earlier tile that looks like another."""

    cell_id: str
    sensing_time: datetime
    """Aware UTC."""
    scene_id: str
    """Scene version that showed it."""
    cosine: float
    """Cosine of the two class embeddings, -1..1."""


def most_similar(
    queries: Float32Array, looks: Sequence[EarlierLook], limit: int
) -> tuple[tuple[SimilarTile, ...], ...]:
    """For each query, the ``limit`` tiles of ``looks`` with the largest cosine to it, best first.

    Of tiles that are equal to :data:`DECIMALS` decimals the latest comes first, then the smallest cell id, then the
    smallest scene id: the order of ``looks`` does not matter.

    Args:
        queries: class embeddings of any length but zero.  (M, D)
        looks: earlier looks through the same model; cells that the new look does not show count too.
        limit: how many tiles for each query.

    Raises:
        InputMismatch: a look has embeddings of another size.
    """
    wanted = _unit(queries)
    found: list[list[SimilarTile]] = [[] for _ in range(len(wanted))]
    for earlier in looks:
        if not len(earlier.look):
            continue
        _check_size(wanted.shape[1], earlier.look.cls, f"the look of scene {earlier.scene_id}")
        for query, cosines in enumerate(np.round(_cosines(wanted, earlier.look.cls), DECIMALS)):
            found[query] += [
                SimilarTile(
                    cell_id=earlier.look.cell_ids[row],
                    sensing_time=earlier.sensing_time,
                    scene_id=earlier.scene_id,
                    cosine=float(cosines[row]),
                )
                for row in _at_least_the_best(cosines, limit)
            ]
            found[query] = sorted(found[query], key=_order)[:limit]
    return tuple(tuple(tiles) for tiles in found)


def _order(tile: SimilarTile) -> tuple[float, float, str, str]:
    return -tile.cosine, -tile.sensing_time.timestamp(), tile.cell_id, tile.scene_id


def _at_least_the_best(cosines: npt.NDArray[np.float64], limit: int) -> list[int]:
    """Rows that no ``limit`` others pass, ties at the border included; those of no direction (NaN) never."""
    known = np.flatnonzero(np.isfinite(cosines))
    if len(known) > limit:
        border = np.partition(cosines[known], len(known) - limit)[len(known) - limit]
        known = known[cosines[known] >= border]
    return known.tolist()


def _cosines(unit: npt.NDArray[np.float64], cls: Float32Array) -> npt.NDArray[np.float64]:
    """(M, D) unit rows, (N, D) -> (M, N), a block of rows at a time."""
    blocks = [unit @ _unit(cls[start : start + _ROWS]).T for start in range(0, len(cls), _ROWS)]
    cosines: npt.NDArray[np.float64] = np.clip(np.concatenate(blocks, axis=1), -1.0, 1.0)
    return cosines


def _unit(vectors: Float32Array) -> npt.NDArray[np.float64]:
    """Rows of length 1 in double precision; a zero row has no direction and becomes NaN."""
    wide = vectors.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: npt.NDArray[np.float64] = np.divide(wide, length, out=np.full_like(wide, np.nan), where=length > 0)
    return unit


def _check_size(size: int, cls: npt.NDArray[Any], whose: str) -> None:
    if size != cls.shape[1]:
        raise InputMismatch(
            f"{whose} has embeddings of {cls.shape[1]} numbers, the tile asked for has {size}: they come "
            "from different encoders and cannot be compared; search one sensor family at a time"
        )


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One tile that a search has kept."""

    cosine: float
    """-1..1"""
    cell_id: str
    source: Hashable
    """What :meth:`Nearest.offer` was told of the look."""


class Nearest:
    """The ``limit`` nearest tiles of all that were offered, and how all of them were spread.

    Exact, whatever the order of offers. Memory: ``limit`` hits, one histogram, and one look at a time.
    """

    def __init__(
        self,
        query: Float32Array,
        limit: int,
        *,
        keep: Callable[[str], bool] = lambda cell_id: True,
        once_per_place: bool = False,
    ) -> None:
        """Start a search.

        Args:
            query: the class embedding looked for.  (D,)
            limit: how many tiles to keep.
            keep: whether a cell may be kept; asked only of cells near enough to be.
            once_per_place: keep only the nearest look of each cell; else each look of it counts.

        Raises:
            InputMismatch: the query is a zero vector or not finite.
        """
        length = float(np.linalg.norm(query.astype(np.float64)))
        if not np.isfinite(length) or length == 0.0:
            raise InputMismatch("the tile asked for has an embedding without a direction, so nothing is near it")
        self._query = (query / length).astype(np.float32)
        self._limit = limit
        self._keep = keep
        self._once = once_per_place
        self._hits: dict[tuple[Hashable, str], Hit] = {}
        self._border = -np.inf
        self._histogram = np.zeros(_BINS, dtype=np.int64)
        self.looks = 0
        """Looks offered."""
        self.tiles = 0
        """Tiles offered, those that ``keep`` refuses included."""

    def offer(self, source: Hashable, scene: Hashable, cell_ids: Sequence[str], cls: npt.NDArray[Any]) -> None:
        """Take one look into account.

        A cell of a scene counts once, even where two overlapping areas hold it: the first offer wins.

        Args:
            source: what shall be handed back with a hit.
            scene: which scene version this is.
            cell_ids: the N cells.
            cls: their class embeddings, in half precision or more.  (N, D)

        Raises:
            InputMismatch: the embeddings have another size than the query.
        """
        self.looks += 1
        if not len(cell_ids):
            return
        _check_size(len(self._query), cls, f"a look of {len(cell_ids)} tiles")
        rows = cls.astype(np.float32)
        length = np.sqrt(np.einsum("nd,nd->n", rows, rows))
        # A tile without a direction is as far as can be.
        cosines = np.divide(rows @ self._query, length, out=np.full(len(rows), -1.0, np.float32), where=length > 0)
        cosines = np.clip(cosines, -1.0, 1.0)
        self.tiles += len(rows)
        self._histogram += np.histogram(cosines, bins=_BINS, range=(-1.0, 1.0))[0]
        near = np.flatnonzero(cosines > self._border)
        for row in near[np.argsort(-cosines[near], kind="stable")].tolist():
            cosine, cell_id = float(cosines[row]), cell_ids[row]
            if cosine <= self._border:
                break
            if self._keep(cell_id):
                self._take(Hit(cosine=cosine, cell_id=cell_id, source=source), None if self._once else scene)

    def _take(self, hit: Hit, scene: Hashable) -> None:
        known = self._hits.get((scene, hit.cell_id))
        if known is not None and known.cosine >= hit.cosine:
            return
        self._hits[scene, hit.cell_id] = hit
        if len(self._hits) > self._limit:
            # The last of the smallest: of equal tiles the first offered stays.
            del self._hits[min(reversed(self._hits), key=lambda key: self._hits[key].cosine)]
        if len(self._hits) == self._limit:
            self._border = min(each.cosine for each in self._hits.values())

    def best(self) -> tuple[Hit, ...]:
        """The nearest tiles, nearest first; of equal ones the first offered."""
        return tuple(sorted(self._hits.values(), key=lambda hit: -hit.cosine))

    def quantile(self, share: float) -> float | None:
        """The cosine below which ``share`` of all tiles offered lie, to 0.0005; None before the first tile."""
        if not self.tiles:
            return None
        bin_ = int(np.searchsorted(np.cumsum(self._histogram), share * self.tiles))
        return float(-1.0 + 2.0 * (min(bin_, _BINS - 1) + 0.5) / _BINS)
