"""Schedules of a training run: closed forms of the step, so that a resumed run needs no state for them."""

from __future__ import annotations

import math


def warmup_cosine(step: int, *, steps: int, warmup: int, peak: float, floor: float = 0.0) -> float:
    """Linear from ``peak / warmup`` to ``peak`` in ``warmup`` steps, then a half cosine down to ``floor``.

    ``step`` counts from 0; the last step, ``steps - 1``, has the value ``floor``.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    span = max(1, steps - 1 - warmup)
    return cosine(min(1.0, (step - warmup) / span), start=peak, end=floor)


def cosine(progress: float, *, start: float, end: float) -> float:
    """``start`` at 0, ``end`` at 1, a half cosine between."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
