"""The condition of a conditional denoiser: what a place looked like before, and where that is known.

A denoiser of C bands takes ``C + 1`` condition channels: the earlier look in [-1, 1], 0 where it is not known, and a
channel that is 1 where it is known and 0 elsewhere. All zeros say that nothing is known, so one network is both the
conditional and the unconditional denoiser (trained as in classifier-free guidance: Ho & Salimans 2022).
"""

from __future__ import annotations

import numpy as np

from engine.errors import InputMismatch
from engine.tiles import BoolArray, Float32Array


def condition_of(reflectance: Float32Array, valid: BoolArray) -> Float32Array:
    """The condition that an earlier look makes.  (N, C + 1, H, W)

    Args:
        reflectance: the earlier look, 0..1.  (N, C, H, W)
        valid: where it is known.  (N, H, W)

    Raises:
        InputMismatch: the mask does not belong to these images.
    """
    if reflectance.ndim != 4 or valid.shape != (reflectance.shape[0], *reflectance.shape[2:]):
        raise InputMismatch(f"mask {valid.shape} does not belong to images {reflectance.shape}; (N, H, W) does")
    known = valid[:, None].astype(np.float32)
    return np.concatenate([(2 * reflectance - 1) * known, known], axis=1, dtype=np.float32)
