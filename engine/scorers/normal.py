"""What normal tiles look like to the scorers: the arrays that density scorers are made from, and nothing else is.

=======================  =======================================================================================
``normal_colour``        mean colours in [-1, 1] (n, C): :meth:`engine.scorers.controls.MeanColour.of`
``normal_path``          DiffPath's six statistics (n, 6): ``DiffPath.fit``, ``DiffPathRate.fit``
``normal_path_norms``    score norms along the path (n, steps): ``MsmaPath.fit``
``normal_msma``          score norms at MSMA's levels (n, L): ``Msma.fit``
``normal_levels``        one-step errors from noise levels (n, L): ``LevelScore.fit``
``normal_cls``           unit CLS embeddings (n, D): ``FeatureMahalanobis.fit``, ``FeatureNeighbours``
``normal_tokens``        unit patch embeddings of some of the tiles' patches (m, D): ``TokenNeighbours``
=======================  =======================================================================================

They hold only for the networks, the schedule, the levels and the seed that they were measured with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from engine.embed import Embedder, unit_rows
from engine.errors import InputMismatch
from engine.ode import Schedule
from engine.runners.base import Runner
from engine.scorers.base import check_mask
from engine.scorers.controls import mean_colours
from engine.scorers.levels import LEVEL_SIGMAS, level_errors
from engine.scorers.msma import MSMA_SIGMAS, score_norms
from engine.scorers.path import path_statistics
from engine.tiles import BoolArray, Float32Array

TOKENS = 2048
"""Patch embeddings that are kept: at 192 numbers each, 1.5 MiB."""


def normal_arrays(
    denoiser: Runner | None,
    encoder: Runner | None,
    x: Float32Array,
    valid: BoolArray,
    schedule: Schedule,
    *,
    msma_sigmas: Sequence[float] = MSMA_SIGMAS,
    level_sigmas: Sequence[float] = LEVEL_SIGMAS,
    seed: int = 0,
    tokens: int = TOKENS,
    batch: int = 8,
) -> dict[str, Float32Array]:
    """Measure normal tiles with the networks that will score. Nothing is known of the tiles' places.

    A tile costs one encode leg and one evaluation at each MSMA level and each reconstruction level.

    Args:
        denoiser: opened denoiser; None leaves its arrays out.
        encoder: opened encoder; None leaves its arrays out.
        x: normal tiles in [-1, 1], each with a valid pixel.  (n, C, H, W)
        valid: True where a pixel counts.  (n, H, W)
        schedule: noise levels of the path scorers.
        msma_sigmas: noise levels of :class:`~engine.scorers.msma.Msma`.
        level_sigmas: noise levels of :class:`~engine.scorers.levels.LevelScore`.
        seed: of the noise of :class:`~engine.scorers.levels.LevelScore`.
        tokens: patch embeddings to keep at most, evenly spread over the tiles; 0 keeps none.
        batch: tiles of one call of a network.

    Returns:
        The arrays of the module's table that the networks given allow, by name, float32.

    Raises:
        InputMismatch: no tile, a tile without a valid pixel, or tiles that are not what the networks declare.
    """
    check_mask(x, valid)
    if not len(x) or not valid.any(axis=(1, 2)).all():
        raise InputMismatch(f"{len(x)} normal tiles; at least one is needed, and each must have a valid pixel")
    parts: dict[str, list[Float32Array]] = defaultdict(list)
    embedder = None if encoder is None else Embedder(encoder)
    for start in range(0, len(x), batch):
        some, mask = x[start : start + batch], valid[start : start + batch]
        parts["normal_colour"].append(mean_colours(some, mask))
        if denoiser is not None:
            path = path_statistics(denoiser, some, mask, schedule)
            parts["normal_path"].append(path.diffpath)
            parts["normal_path_norms"].append(path.norms)
            parts["normal_msma"].append(score_norms(denoiser, some, mask, msma_sigmas))
            parts["normal_levels"].append(level_errors(denoiser, some, mask, level_sigmas, seed=seed)[0])
        if embedder is not None:
            embedding = embedder.embed(some)
            parts["normal_cls"].append(embedding.cls)
            if tokens:
                parts["normal_tokens"].append(_complete_tokens(embedding.patch_tokens, mask))
    arrays = {name: np.concatenate(some).astype(np.float32) for name, some in parts.items()}
    if "normal_tokens" in arrays:
        rows = arrays["normal_tokens"]
        arrays["normal_tokens"] = rows[np.arange(min(tokens, len(rows))) * len(rows) // max(min(tokens, len(rows)), 1)]
    return arrays


def _complete_tokens(patch_tokens: Float32Array, valid: BoolArray) -> Float32Array:
    """Unit embeddings of the patches without a gap.  (m, D)"""
    n, rows, cols, width = patch_tokens.shape
    patches = valid.reshape(n, rows, valid.shape[1] // rows, cols, valid.shape[2] // cols)
    return unit_rows(patch_tokens[patches.all(axis=(2, 4))].reshape(-1, width))
