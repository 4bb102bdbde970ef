"""Which tiles stand for all where a scorer is too slow for all of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.evaluate.protocol import Ground

IntArray = npt.NDArray[np.int64]

BETWEEN = 0.2
"""Share of the chosen tiles that are neither flooded nor dry; only the pixel protocol judges them."""
EXAMPLES = 8


def choose_tiles(ground: Ground, count: int, rng: np.random.Generator) -> IntArray:
    """At most ``count`` tiles, ascending: 2 in 5 flooded, 2 in 5 dry, the rest in between, each kind by event.

    Within a kind an event gets as many as is its share of them, and at least one: so the chosen tiles' AUROC estimates
    that of all tiles. What a kind lacks goes to the others.
    """
    flooded, dry = ground.flooded, ground.dry
    kinds = [np.flatnonzero(which) for which in (flooded, dry, ~flooded & ~dry)]
    wanted = [round(count * (1 - BETWEEN) / 2), round(count * (1 - BETWEEN) / 2), round(count * BETWEEN)]
    quotas = [min(want, len(rows)) for want, rows in zip(wanted, kinds, strict=True)]
    for i, rows in enumerate(kinds):
        spare = count - sum(quotas)
        quotas[i] += max(0, min(spare, len(rows) - quotas[i]))
    chosen = [_by_event(rows, ground.event[rows], quota, rng) for rows, quota in zip(kinds, quotas, strict=True)]
    return np.sort(np.concatenate(chosen))


def choose_examples(ground: Ground, chosen: IntArray, rng: np.random.Generator) -> IntArray:
    """A few of the chosen tiles for people to look at: half flooded, the rest half in between, half dry."""
    flooded, dry = ground.flooded[chosen], ground.dry[chosen]
    kinds = ((flooded, EXAMPLES // 2), (~flooded & ~dry, EXAMPLES // 4), (dry, EXAMPLES // 4))
    return np.sort(np.concatenate([rng.permutation(chosen[which])[:count] for which, count in kinds]))


def _by_event(rows: IntArray, event: IntArray, quota: int, rng: np.random.Generator) -> IntArray:
    """``quota`` of ``rows``, from each event in proportion, by largest remainders.

    Every event gets one, while there is enough for all.
    """
    if quota >= len(rows):
        return rows
    names, sizes = np.unique(event, return_counts=True)
    share = quota * sizes / len(rows)
    counts = np.floor(share).astype(np.int64)
    if quota >= len(names):
        counts = np.maximum(counts, 1)
    # Largest remainder first; where the minimum of one took too much, the largest counts give it back.
    while counts.sum() < quota:
        counts[np.argmax(np.where(counts < sizes, share - counts, -np.inf))] += 1
    while counts.sum() > quota:
        counts[np.argmax(counts - share + (counts > 1) * len(rows))] -= 1
    picked = [rng.permutation(rows[event == name])[:n] for name, n in zip(names, counts, strict=True)]
    return np.concatenate(picked)
