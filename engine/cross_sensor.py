"""Embeddings of one place through two sensor families: cells of one grid nest, so they can be compared.

X-STARS trains one space for all sensors (Marsocci & Audebert 2025), so the cosine distance between a fine cell and
the coarse cell that it lies in means something. The distance of means is used where several fine cells share one
coarse cell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from engine.grid import Cell
from engine.look import Look


def cross_sensor_distance(cell_ids: Sequence[str], look: Look, other: Look) -> float | None:
    """Mean cosine distance between cells of a look and the same ground in a look of another family, 0..2.

    Args:
        cell_ids: cells of ``look`` to compare.
        look: the new look.
        other: a look of another sensor family, at a coarser, finer or equal level.

    Returns:
        None where the two show no common ground, in one zone and tile size.
    """
    if not cell_ids or not len(other):
        return None
    first, second = Cell.parse(cell_ids[0]), Cell.parse(other.cell_ids[0])
    level = min(first.level, second.level)
    ours = _means(cell_ids, look, level)
    theirs = _means(other.cell_ids, other, level)
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return None
    return float(np.mean([1.0 - float(ours[cell] @ theirs[cell]) for cell in common]))


def _means(cell_ids: Sequence[str], look: Look, level: int) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """Unit mean embedding of the shown cells below each cell of ``level``."""
    members: dict[str, list[int]] = defaultdict(list)
    for cell_id in cell_ids:
        row = look.row(cell_id)
        if row is not None:
            members[Cell.parse(cell_id).parent(level).id].append(row)
    means = {}
    for cell_id, rows in members.items():
        mean = look.cls[rows].mean(axis=0)
        length = float(np.linalg.norm(mean))
        if length > 0:
            means[cell_id] = mean / length
    return means
