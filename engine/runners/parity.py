"""The parity gate: no runner serves that would judge otherwise than torch in single precision.

At every start, and so after every build, a runner computes the bundle's golden batch, whose outputs torch recorded in
FP32. What is compared is what the service lives by: embeddings, denoised images, scores, the order of scores, and on
which side of the working thresholds a tile falls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.calibrate import Calibration
from engine.embed import unit_rows
from engine.errors import RunnerUnavailable
from engine.golden import run_golden
from engine.odeed import OdeedSettings
from engine.runners.base import Runner
from engine.tiles import Float32Array

FloatArray = npt.NDArray[np.floating[Any]]

MIN_COSINE = 0.999
"""Smallest cosine of an embedding with the recorded one."""
MAX_DENOISED = 0.01
"""Largest RMS difference of a denoised tile, over the recorded tile's RMS."""
MAX_SCORE_SHIFT = 0.02
"""Largest difference of a score, over the interquartile range of normal tiles' scores."""
MIN_RANK_CORRELATION = 0.999
"""Smallest Spearman correlation of the scores."""
WORKING_SHARES = (0.01, 0.001)
"""Shares of normal tiles above the thresholds at which decisions are compared: the defaults for a pair of looks and
for a place never seen before (:class:`engine.judge.DetectSettings`)."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison."""

    tensor: str
    """What was compared."""
    measure: str
    """How."""
    value: float
    """What came out; NaN where a runner gave something that is no number."""
    limit: float
    passed: bool

    def __str__(self) -> str:
        return f"{self.tensor!r}: {self.measure} {self.value:.4g}, the limit is {self.limit:g}"


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """What the gate saw."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """What drifted too far."""
        return tuple(check for check in self.checks if not check.passed)


def measure(
    golden: Mapping[str, Float32Array],
    settings: OdeedSettings,
    calibration: Mapping[str, Float32Array],
    encoder: Runner,
    denoiser: Runner,
) -> ParityReport:
    """Run the golden batch and compare.

    Args:
        golden: inputs and recorded outputs (:mod:`engine.golden`).
        settings: of ODEED.
        calibration: the family's arrays; ``odeed``, scores of normal tiles, gives the unit of a score's shift and the
            thresholds. Without it, the recorded scores' own mean is the unit, and no decision is compared.
        encoder: to be judged.
        denoiser: to be judged.
    """
    now = run_golden(encoder, denoiser, settings, golden)
    n = len(golden["pixels"])
    cosine = (unit_rows(now["cls"]) * unit_rows(golden["cls"])).sum(axis=1)
    recorded = golden["denoised"].reshape(n, -1).astype(np.float64)
    off = np.linalg.norm(now["denoised"].reshape(n, -1) - recorded, axis=1) / (np.linalg.norm(recorded, axis=1) + 1e-12)
    want, have = golden["odeed_score"].astype(np.float64), now["odeed_score"].astype(np.float64)
    normal = calibration.get("odeed", np.empty(0, dtype=np.float32))
    low, high = np.quantile(normal, (0.25, 0.75)) if len(normal) else (0.0, float(np.abs(want).mean()))
    shift = np.abs(have - want) / max(high - low, 1e-12)
    # min and max let NaN through, and NaN passes no comparison.
    checks = [
        _at_least("cls", "smallest cosine", float(np.min(cosine)), MIN_COSINE),
        _at_most("denoised", "largest relative RMS difference", float(np.max(off)), MAX_DENOISED),
        _at_most("odeed_score", "largest shift over the interquartile range", float(np.max(shift)), MAX_SCORE_SHIFT),
        _at_least("odeed_score", "rank correlation", rank_correlation(want, have), MIN_RANK_CORRELATION),
    ]
    if len(normal):
        thresholds = [Calibration.of(normal).threshold(share)[0] for share in WORKING_SHARES]
        changed = sum(int(((want > each) != (have > each)).sum()) for each in thresholds)
        checks.append(_at_most("odeed_score", "decisions changed at the working thresholds", float(changed), 0.0))
    return ParityReport(checks=tuple(checks))


def require_parity(
    golden: Mapping[str, Float32Array],
    settings: OdeedSettings,
    calibration: Mapping[str, Float32Array],
    encoder: Runner,
    denoiser: Runner,
) -> ParityReport:
    """As :func:`measure`, and refuse what drifted.

    Raises:
        RunnerUnavailable: names every tensor that drifted, and by how much.
    """
    report = measure(golden, settings, calibration, encoder, denoiser)
    if report.failed:
        runners = " and ".join(dict.fromkeys((encoder.name, denoiser.name)))
        raise RunnerUnavailable(
            f"runner {runners} drifted from the bundle's golden batch: {'; '.join(map(str, report.failed))}. Clear "
            "its cache, set runner: torch, or export the bundle with this version"
        )
    return report


def rank_correlation(a: FloatArray, b: FloatArray) -> float:
    """Spearman's, ties at their mean rank; 1 where neither side has an order, 0 where only one has."""
    if not np.isfinite(np.concatenate([a, b])).all():
        return float("nan")
    ranks = [_mean_ranks(values) for values in (a, b)]
    spread = [float(rank.std()) for rank in ranks]
    if 0.0 in spread:
        return 1.0 if spread == [0.0, 0.0] else 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _mean_ranks(values: FloatArray) -> FloatArray:
    below = (values[None, :] < values[:, None]).sum(axis=1)
    equal = (values[None, :] == values[:, None]).sum(axis=1)
    return np.asarray(below + (equal - 1) / 2, dtype=np.float64)


def _at_least(tensor: str, measure: str, value: float, limit: float) -> Check:
    return Check(tensor=tensor, measure=measure, value=value, limit=limit, passed=value >= limit)


def _at_most(tensor: str, measure: str, value: float, limit: float) -> Check:
    return Check(tensor=tensor, measure=measure, value=value, limit=limit, passed=value <= limit)
