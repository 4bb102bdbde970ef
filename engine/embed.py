"""Tiles to points of the X-STARS space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.errors import InputMismatch
from engine.runners.base import Runner
from engine.tiles import Float32Array


@dataclass(frozen=True, kw_only=True)
class EmbeddingBatch:
    """Embeddings of N tiles."""

    cls: Float32Array
    """The class token, L2 norm 1, so that a dot product is the cosine.  (N, D)"""
    patch_tokens: Float32Array
    """One embedding a patch, as the encoder gives it (not normalised), row 0 at the top.  (N, Hp, Wp, D)"""


class Embedder:
    """Embeds tiles with an opened encoder, which stays the caller's to close."""

    def __init__(self, encoder: Runner) -> None:
        self._encoder = encoder
        pixels = next(spec for spec in encoder.spec.inputs if spec.name == "pixels")
        tokens = next(spec for spec in encoder.spec.outputs if spec.name == "tokens")
        height, width = pixels.shape[2:]
        patch = round((height * width / tokens.shape[1]) ** 0.5)
        self._grid = (height // patch, width // patch)

    def embed(self, x: Float32Array) -> EmbeddingBatch:
        """Embed a batch of tiles.

        Args:
            x: tiles in [-1, 1].  (N, C, H, W)

        Raises:
            InputMismatch: the tiles are not what the encoder declares.
        """
        outputs = self._encoder.run({"pixels": x})
        tokens = outputs["tokens"]
        return EmbeddingBatch(
            cls=unit_rows(outputs["cls"]), patch_tokens=tokens.reshape(len(tokens), *self._grid, tokens.shape[-1])
        )

    def distance(self, x: Float32Array, other: Float32Array) -> Float32Array:
        """Mean over patches of 1 - cosine of two batches of tiles, 0..2: a perceptual distance for ODEED.  (N,)

        Values of ``other`` outside [-1, 1] are clipped, since the encoder never saw such pixels.
        """
        if x.shape != other.shape:
            raise InputMismatch(f"tiles of shapes {x.shape} and {other.shape} cannot be compared one by one")
        a = unit_rows(self.embed(x).patch_tokens)
        b = unit_rows(self.embed(np.clip(other, -1.0, 1.0)).patch_tokens)
        return np.asarray(1.0 - (a * b).sum(axis=-1).mean(axis=(1, 2)), dtype=np.float32)


def unit_rows(vectors: Float32Array) -> Float32Array:
    """Vectors of the last axis scaled to L2 norm 1; a zero vector stays zero."""
    norm = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norm, 1e-12), dtype=np.float32)
