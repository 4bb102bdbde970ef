"""The golden batch: a few inputs and the float32 outputs recorded for them, and the parity gate before serving.

Arrays of a golden file, N tiles of side T:

=============== ================== ========================================================
``pixels``      (N, C, T, T)       clean tiles in [-1, 1]
``cond``        (N, cond, T, T)    condition images, only where the denoiser takes one
``noisy``       (N, C, T, T)       ``pixels`` plus ``sigma`` times unit noise
``sigma``       (N,)               noise levels, spread over the ODEED schedule
``cls``         (N, D)             the encoder's class token of ``pixels``
``denoised``    (N, C, T, T)       D(noisy; sigma)
``odeed_score`` (N,)               ODEED's score of ``pixels`` with the family's settings
=============== ================== ========================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.embed import unit_rows
from engine.errors import InputMismatch, RunnerUnavailable
from engine.odeed import Odeed, OdeedSettings
from engine.runners.base import Runner
from engine.tiles import Float32Array

MIN_COSINE = 0.999
"""Smallest cosine between an embedding and the recorded one."""
MAX_DENOISED = 0.01
"""Largest relative RMS difference of a denoised tile."""
MAX_SCORE = 0.02
"""Largest relative difference of an ODEED score."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far runners are from the recorded outputs; the worst tile of each."""

    cls_cosine: float
    """Smallest cosine of the embeddings."""
    denoised_difference: float
    """Largest RMS difference of the denoised tiles over the recorded RMS."""
    score_difference: float
    """Largest relative difference of the ODEED scores."""


def record_golden(
    encoder: Runner, denoiser: Runner, settings: OdeedSettings, pixels: Float32Array, cond: Float32Array | None = None
) -> dict[str, Float32Array]:
    """Run the reference (torch, float32) on tiles (N, C, T, T) in [-1, 1].

    Raises:
        InputMismatch: no tile, or not what the models declare.
    """
    if len(pixels) == 0:
        raise InputMismatch("a golden batch needs at least one tile")
    levels = settings.schedule().up
    sigma = np.asarray([levels[i * len(levels) // len(pixels)] for i in range(len(pixels))], dtype=np.float32)
    noise = np.random.default_rng(0).standard_normal(pixels.shape, dtype=np.float32)
    arrays = {"pixels": pixels, "sigma": sigma, "noisy": pixels + sigma[:, None, None, None] * noise}
    if cond is not None:
        arrays["cond"] = cond
    return arrays | run_golden(encoder, denoiser, settings, arrays)


def measure_parity(
    golden: Mapping[str, Float32Array], settings: OdeedSettings, encoder: Runner, denoiser: Runner
) -> Parity:
    """Run the golden inputs and compare with the recorded outputs."""
    now = run_golden(encoder, denoiser, settings, golden)
    n = len(golden["pixels"])
    cosine = (unit_rows(now["cls"]) * unit_rows(golden["cls"])).sum(axis=1)
    recorded = golden["denoised"].reshape(n, -1).astype(np.float64)
    rms = np.linalg.norm(now["denoised"].reshape(n, -1) - recorded, axis=1) / (np.linalg.norm(recorded, axis=1) + 1e-12)
    score = np.abs(now["odeed_score"] - golden["odeed_score"]) / (np.abs(golden["odeed_score"]) + 1e-12)
    # np.max and np.min let NaN through, which the gate refuses.
    return Parity(
        cls_cosine=float(np.min(cosine)), denoised_difference=float(np.max(rms)), score_difference=float(np.max(score))
    )


def check_golden(
    golden: Mapping[str, Float32Array], settings: OdeedSettings, encoder: Runner, denoiser: Runner
) -> Parity:
    """The parity gate: refuse runners that do not compute what the bundle recorded.

    Raises:
        RunnerUnavailable: an output drifted beyond tolerance, or is not a number.
    """
    parity = measure_parity(golden, settings, encoder, denoiser)
    gates = (
        ("cls", encoder, "cosine", parity.cls_cosine, parity.cls_cosine >= MIN_COSINE, MIN_COSINE),
        (
            "denoised",
            denoiser,
            "relative difference",
            parity.denoised_difference,
            parity.denoised_difference <= MAX_DENOISED,
            MAX_DENOISED,
        ),
        (
            "odeed_score",
            denoiser,
            "relative difference",
            parity.score_difference,
            parity.score_difference <= MAX_SCORE,
            MAX_SCORE,
        ),
    )
    for tensor, runner, measure, value, passed, limit in gates:
        if not passed:
            raise RunnerUnavailable(
                f"runner {runner.name} drifted from the bundle's golden batch: {tensor!r} has {measure} {value:.4g}, "
                f"the limit is {limit}; clear its cache, set runner: torch, or export the bundle with this version"
            )
    return parity


def run_golden(
    encoder: Runner, denoiser: Runner, settings: OdeedSettings, arrays: Mapping[str, Float32Array]
) -> dict[str, Float32Array]:
    """``cls``, ``denoised`` and ``odeed_score`` of a golden batch's inputs."""
    pixels, cond = arrays["pixels"], arrays.get("cond")
    feeds = {"x": arrays["noisy"], "sigma": arrays["sigma"]}
    if cond is not None:
        feeds["cond"] = cond
    valid = np.ones((len(pixels), *pixels.shape[2:]), dtype=np.bool_)
    return {
        "cls": encoder.run({"pixels": pixels})["cls"],
        "denoised": denoiser.run(feeds)["denoised"],
        "odeed_score": Odeed(denoiser, settings).score(pixels, valid, cond).score,
    }
