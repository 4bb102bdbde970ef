"""Every scorer that a family's networks and normal arrays allow, as subjects; the shipped decisions among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.embed import Embedder
from engine.flood import FloodModel
from engine.odeed import FeatureDistance, Odeed, OdeedSettings
from engine.runners.base import Runner
from engine.scorers.base import ConditionalScorer, PairedScorer, Scorer, TileScores
from engine.scorers.baselines import DiffusionLoss, OneStepDenoising
from engine.scorers.features import FeatureMahalanobis, FeatureNeighbours, TokenNeighbours
from engine.scorers.levels import LevelScore
from engine.scorers.msma import Msma
from engine.scorers.paired import Conditional, Contrast, Difference, EmbeddingDistance, PixelDistance, TokenDistance
from engine.scorers.path_scorers import DiffPath, DiffPathRate, MsmaPath, PathLength, PathTurning
from engine.spectrum import feature_names
from engine.tiles import BoolArray, Float32Array
from training.evaluate.ood import Paired, Subject, Unpaired
from training.evaluate.subjects import controls_of, paired, unpaired
from training.flood.fit import features_of

SHIPPED = "shipped"
"""The flood decision for a place never seen before."""
SHIPPED_PAIRED = "shipped-paired"
"""The flood decision for a place with an earlier look."""


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A family's networks, opened, and what goes with them."""

    bands: tuple[str, ...]
    sigma_data: float
    settings: OdeedSettings
    denoiser: Runner
    encoder: Runner
    arrays: Mapping[str, Float32Array]
    """Normal arrays (:mod:`engine.scorers.normal`) and the flood model's weights."""
    lpips: FeatureDistance | None = None
    """LPIPS, if its weights were given."""

    @property
    def conditional(self) -> bool:
        """Whether the denoiser takes an earlier look as condition."""
        return any(spec.name == "cond" for spec in self.denoiser.spec.inputs)


def subjects_of(detector: Detector) -> list[Subject]:
    """All subjects, controls first. Denoisers are asked on a part of the tiles only."""
    return [
        *controls_of(detector.bands, detector.arrays),
        Subject(name="pixel-distance", kind="control", paired=paired(PixelDistance()), symmetric=True, pixels=True),
        *_diffusion(detector),
        *_features(detector),
        *_pairs(detector),
        *_shipped(detector),
    ]


def _diffusion(detector: Detector) -> list[Subject]:
    denoiser, schedule, arrays = detector.denoiser, detector.settings.schedule(), detector.arrays
    sigma = detector.sigma_data
    levels = tuple(sigma * ratio for ratio in (0.25, 0.5, 1.0, 2.0))
    odeed = Odeed(denoiser, detector.settings)
    found: list[tuple[Scorer, bool]] = [
        (DiffusionLoss(denoiser=denoiser, sigma_data=sigma, sigmas=levels), True),
        (OneStepDenoising(denoiser=denoiser, sigma=sigma), True),
        (odeed, True),
        (PathLength(denoiser=denoiser, schedule=schedule), True),
        (PathTurning(denoiser=denoiser, schedule=schedule), False),
    ]
    if "normal_path" in arrays:
        found += [
            (DiffPath.fit(arrays["normal_path"], denoiser=denoiser, schedule=schedule), False),
            (DiffPathRate.fit(arrays["normal_path"], denoiser=denoiser, schedule=schedule), False),
            (MsmaPath.fit(arrays["normal_path_norms"], denoiser=denoiser, schedule=schedule), False),
            (Msma.fit(arrays["normal_msma"], denoiser=denoiser), False),
            (LevelScore.fit(arrays["normal_levels"], denoiser=denoiser), False),
        ]
    subjects = [_of(scorer, logarithmic=logarithmic) for scorer, logarithmic in found]
    embedder = Embedder(detector.encoder)
    distances: dict[str, FeatureDistance] = {"odeed-xstars": embedder.distance}
    if detector.lpips is not None:
        distances["odeed-lpips"] = detector.lpips
    for name, distance in distances.items():
        by_features = Odeed(denoiser, detector.settings, feature_distance=distance)
        subjects.append(
            Subject(
                name=name,
                kind="unpaired",
                unpaired=_feature_scores(by_features),
                nfe=odeed.nfe,
                expensive=True,
                logarithmic=True,
            )
        )
    return subjects


def _features(detector: Detector) -> list[Subject]:
    arrays, embedder = detector.arrays, Embedder(detector.encoder)
    found: list[Scorer] = []
    if "normal_cls" in arrays:
        found += [
            FeatureMahalanobis.fit(arrays["normal_cls"], embedder=embedder),
            FeatureNeighbours(embedder=embedder, normal=arrays["normal_cls"]),
        ]
    if "normal_tokens" in arrays:
        found.append(TokenNeighbours(embedder=embedder, normal=arrays["normal_tokens"]))
    return [_of(scorer) for scorer in found]


def _pairs(detector: Detector) -> list[Subject]:
    denoiser, embedder = detector.denoiser, Embedder(detector.encoder)
    odeed = Odeed(denoiser, detector.settings)
    found: list[PairedScorer] = [
        EmbeddingDistance(embedder=embedder, name="ravaen-xstars"),
        TokenDistance(embedder=embedder),
        Difference(of=odeed, name="odeed-change", log=True),
        Difference(of=odeed, name="odeed-change-absolute", log=True, absolute=True),
    ]
    if detector.conditional:
        one_step: ConditionalScorer = OneStepDenoising(denoiser=denoiser, sigma=detector.sigma_data)
        found += [
            Conditional(of=odeed, name="odeed-conditional"),
            Conditional(of=one_step, name="one-step-conditional"),
            Contrast(of=odeed, name="odeed-contrast"),
            Contrast(of=one_step, name="one-step-contrast"),
        ]
    return [
        Subject(
            name=scorer.name,
            kind="paired",
            paired=paired(scorer),
            symmetric=scorer.symmetric,
            nfe=scorer.nfe,
            expensive=True,
            pixels=not isinstance(scorer, EmbeddingDistance),
        )
        for scorer in found
    ]


def _shipped(detector: Detector) -> list[Subject]:
    bands = detector.bands
    model = FloodModel.from_arrays(detector.arrays, len(feature_names(bands)))
    if model is None:
        return []
    return [
        Subject(name=SHIPPED, kind="unpaired", unpaired=_flood(model, bands)),
        Subject(name=SHIPPED_PAIRED, kind="paired", paired=_flood_change(model, bands)),
    ]


def _flood(model: FloodModel, bands: Sequence[str]) -> Unpaired:
    return lambda tiles: (model.of_look(features_of(tiles, bands)), None)


def _flood_change(model: FloodModel, bands: Sequence[str]) -> Paired:
    return lambda now, earlier: (model.of_change(features_of(now, bands), features_of(earlier, bands)), None)


def _of(scorer: Scorer, *, logarithmic: bool = False) -> Subject:
    return Subject(
        name=scorer.name,
        kind="unpaired",
        unpaired=unpaired(scorer),
        nfe=scorer.nfe,
        expensive=True,
        pixels=True,
        logarithmic=logarithmic,
    )


def _feature_scores(odeed: Odeed) -> Unpaired:
    """ODEED by a feature distance: the same round trip, compared elsewhere."""

    class ByFeatures:
        name = "odeed-by-features"
        nfe = odeed.nfe

        def score(self, x: Float32Array, valid: BoolArray) -> TileScores:
            distance = odeed.score(x, valid).feature_distance
            assert distance is not None, "a feature distance was asked for"
            return TileScores(score=distance, nfe=odeed.nfe)

    return unpaired(ByFeatures())
