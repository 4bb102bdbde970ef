"""How long to wait before the next try, as a value."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Exponential back-off with jitter, so that a fleet that failed together does not return together."""

    base_s: float = 1.0
    """Longest wait after the first failure, seconds."""
    cap_s: float = 300.0
    """Longest wait ever, unless the other side asked for more."""

    def delay_s(self, failures: int, rng: random.Random, *, asked_s: float | None = None) -> float:
        """Seconds to wait after ``failures`` failures in a row (at least 1).

        Between half and all of ``base · 2^(failures−1)``, capped; never less than ``asked_s`` (``Retry-After``).
        """
        if failures < 1:
            raise ValueError(f"a back-off follows a failure, not {failures} of them")
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 60))
        return max(rng.uniform(ceiling / 2.0, ceiling), asked_s or 0.0)
