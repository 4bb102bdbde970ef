"""Reflectance 0..1 to the networks' -1..1, and back."""

from __future__ import annotations

import numpy as np

from engine.tiles import Float32Array


def to_network(reflectance: Float32Array) -> Float32Array:
    """Reflectance, clipped to 0..1, as the networks see it: 2 r - 1; any shape."""
    return np.asarray(np.clip(reflectance, 0.0, 1.0) * 2.0 - 1.0, dtype=np.float32)


def to_reflectance(x: Float32Array) -> Float32Array:
    """The inverse of :func:`to_network`, clipped to 0..1; any shape."""
    return np.asarray(np.clip((x + 1.0) / 2.0, 0.0, 1.0), dtype=np.float32)
