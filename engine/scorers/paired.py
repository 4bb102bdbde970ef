"""Scores of a tile given an earlier look of the same ground.

Symmetric ones say only that the looks differ. Differences of unpaired scores and conditional scores have a direction:
they tell a flood from its going down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.condition import condition_of
from engine.embed import Embedder, unit_rows
from engine.odeed import masked_mse
from engine.reference import log_score
from engine.scorers.base import ConditionalScorer, Scored, Scorer, TileScores, check_pair, nan_without_ground
from engine.scorers.features import TOP_SHARE, check_share, token_scores, top_mean
from engine.tiles import BoolArray, Float32Array


@dataclass(frozen=True, kw_only=True)
class PixelDistance:
    """Control: mean squared difference of the two looks over ground valid in both."""

    name: str = "pixel-distance"
    nfe: int = 0
    symmetric: bool = True

    def score(self, x: Float32Array, valid: BoolArray, earlier: Float32Array, earlier_valid: BoolArray) -> TileScores:
        """See :class:`~engine.scorers.base.PairedScorer`."""
        check_pair(x, valid, earlier, earlier_valid)
        score, error_map = masked_mse(x, earlier, valid & earlier_valid)
        return TileScores(score=score, error_map=error_map, nfe=self.nfe)


@dataclass(frozen=True, kw_only=True)
class EmbeddingDistance:
    """Cosine distance of the two looks' CLS embeddings, 0..2.

    After RaVAEn (Růžička et al. 2022, Scientific Reports 12), which takes the smallest distance to several earlier
    looks, in the latent space of an autoencoder; here it is one earlier look and the encoder's space.
    """

    embedder: Embedder
    name: str = "embedding-distance"
    nfe: int = 0
    symmetric: bool = True

    def score(self, x: Float32Array, valid: BoolArray, earlier: Float32Array, earlier_valid: BoolArray) -> TileScores:
        """See :class:`~engine.scorers.base.PairedScorer`; there is no map."""
        check_pair(x, valid, earlier, earlier_valid)
        cosine = (self.embedder.embed(x).cls * self.embedder.embed(earlier).cls).sum(axis=1)
        return TileScores(score=nan_without_ground(1 - cosine, valid & earlier_valid), nfe=self.nfe)


@dataclass(frozen=True, kw_only=True)
class TokenDistance:
    """Mean over the most changed patches of the cosine distance between the looks' tokens, 0..2."""

    embedder: Embedder
    share: float = TOP_SHARE
    """Share of the patches with ground valid in both looks that are averaged, at least one: a tiny one is the maximum;
    1 is the mean."""
    name: str = "token-distance"
    nfe: int = 0
    symmetric: bool = True

    def __post_init__(self) -> None:
        check_share(self.share)

    def score(self, x: Float32Array, valid: BoolArray, earlier: Float32Array, earlier_valid: BoolArray) -> TileScores:
        """See :class:`~engine.scorers.base.PairedScorer`; the map holds each patch's distance."""
        check_pair(x, valid, earlier, earlier_valid)
        now, then = (unit_rows(self.embedder.embed(look).patch_tokens) for look in (x, earlier))
        distance = np.asarray(1 - (now * then).sum(axis=-1), dtype=np.float32)
        return token_scores(distance, valid & earlier_valid, lambda values: top_mean(values, self.share))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """An unpaired score now minus before, both over ground valid in both looks.

    It changes its sign when the looks are swapped, or nothing at all if ``absolute``. Of a control it is a control.
    """

    of: Scorer
    name: str
    log: bool = False
    """Whether the natural logs of the scores are subtracted: for errors, which are positive and skewed."""
    absolute: bool = False
    """Whether the sign is dropped."""

    @property
    def nfe(self) -> int:
        """Both looks are scored; who kept the earlier score pays half."""
        return 2 * self.of.nfe

    @property
    def symmetric(self) -> bool:
        """See :class:`~engine.scorers.base.PairedScorer`."""
        return self.absolute

    def score(self, x: Float32Array, valid: BoolArray, earlier: Float32Array, earlier_valid: BoolArray) -> TileScores:
        """See :class:`~engine.scorers.base.PairedScorer`; the map is the difference of the maps, never of logs."""
        check_pair(x, valid, earlier, earlier_valid)
        both = valid & earlier_valid
        change = _minus(self.of.score(x, both), self.of.score(earlier, both), log=self.log, nfe=self.nfe)
        if not self.absolute:
            return change
        error_map = None if change.error_map is None else np.abs(change.error_map)
        return TileScores(score=np.abs(change.score), error_map=error_map, nfe=self.nfe)


@dataclass(frozen=True, kw_only=True)
class Conditional:
    """A denoiser's score where the denoiser knows the earlier look: is this image plausible *for this place*?

    Where the earlier look is not valid nothing is known, and without any such pixel it is the unpaired score.
    """

    of: ConditionalScorer
    """ODEED, one-step denoising, the diffusion loss or a path score, over a denoiser that takes a condition."""
    name: str
    symmetric: bool = False

    @property
    def nfe(self) -> int:
        """As without a condition."""
        return self.of.nfe

    def score(self, x: Float32Array, valid: BoolArray, earlier: Float32Array, earlier_valid: BoolArray) -> Scored:
        """See :class:`~engine.scorers.base.PairedScorer`."""
        check_pair(x, valid, earlier, earlier_valid)
        return self.of.score(x, valid, _condition(earlier, earlier_valid))


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """ln of the conditional score minus ln of the unconditional one.

    Negative: knowing the place makes the image more plausible. What is hard to reconstruct anywhere, such as a town's
    texture, is divided out; what the place does not explain stays near 0, or above it if the place speaks against it.
    """

    of: ConditionalScorer
    """A score that is positive, over a denoiser that takes a condition."""
    name: str
    symmetric: bool = False

    @property
    def nfe(self) -> int:
        """The score is taken twice."""
        return 2 * self.of.nfe

    def score(self, x: Float32Array, valid: BoolArray, earlier: Float32Array, earlier_valid: BoolArray) -> TileScores:
        """See :class:`~engine.scorers.base.PairedScorer`; the map is the difference of the maps, never of logs."""
        check_pair(x, valid, earlier, earlier_valid)
        known = self.of.score(x, valid, _condition(earlier, earlier_valid))
        return _minus(known, self.of.score(x, valid), log=True, nfe=self.nfe)


def _condition(earlier: Float32Array, earlier_valid: BoolArray) -> Float32Array:
    return condition_of(np.asarray((earlier + 1) / 2, dtype=np.float32), earlier_valid)


def _minus(a: Scored, b: Scored, *, log: bool, nfe: int) -> TileScores:
    score = log_score(a.score) - log_score(b.score) if log else a.score - b.score
    error_map = None if a.error_map is None or b.error_map is None else a.error_map - b.error_map
    return TileScores(score=score, error_map=error_map, nfe=nfe)
