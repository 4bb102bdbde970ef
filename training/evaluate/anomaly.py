"""Anomalies without a label: images of classes that a network was not shown, against held-out images of those it was.

No flood and no map is in it. A score may find such classes by their colour or their texture alone, so controls stand
beside it; and the encoder has seen all classes, without their names, unless its own run left them out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.runners.base import Runner
from engine.scorers.normal import normal_arrays
from engine.tiles import Float32Array
from training.data.classfolder import ClassImage
from training.data.heldout import windows
from training.data.ombria import read_rgb
from training.data.pool import area_downsample, to_reflectance
from training.errors import TrainingDataInvalid
from training.evaluate.bootstrap import PairCounts, event_draws, interval
from training.evaluate.ood import Kind, Subject
from training.evaluate.record import RecordTable, rounded
from training.evaluate.scenes import Progress

Arrays = dict[str, Float32Array]

USUAL = (
    "energy",
    "mean-colour",
    "sharpness",
    "png-size",
    "diffusion-loss",
    "one-step",
    "odeed",
    "feature-mahalanobis",
    "feature-knn",
)
"""Scorers that are judged unless others are asked for; none of them needs a density of path statistics."""


@dataclass(frozen=True, kw_only=True)
class ImageScores:
    """Scores of n images, each the mean over its tiles."""

    labels: npt.NDArray[np.str_]
    """Class of each image.  (n,)"""
    scores: dict[str, Float32Array]
    """By scorer.  (n,) each"""
    kinds: dict[str, Kind]
    nfe: dict[str, int]
    ms_per_tile: dict[str, float]


def images_of_each_class(images: Sequence[ClassImage], count: int, rng: np.random.Generator) -> list[ClassImage]:
    """At most ``count`` images of each class, in their own order."""
    chosen: list[ClassImage] = []
    for label in sorted({image.label for image in images}):
        members = [image for image in images if image.label == label]
        chosen += [members[i] for i in np.sort(rng.permutation(len(members))[:count])]
    return chosen


def image_tiles(image: ClassImage, gains: Sequence[float], tile_px: int, side_px: int) -> Float32Array:
    """The whole tiles of an image that is averaged to a side, reflectance.  (k, C, tile, tile)

    Raises:
        TrainingDataInvalid: the side is smaller than a tile.
    """
    if side_px < tile_px:
        raise TrainingDataInvalid(f"images of {side_px} px hold no tile of {tile_px} px; give a larger side")
    pixels = area_downsample(read_rgb(image.path), side_px)
    return np.stack([to_reflectance(pixels[window], gains) for window in windows(pixels.shape[:2], tile_px)])


def measured_normal(denoiser: Runner | None, encoder: Runner, tiles: Float32Array, schedule: Any) -> Arrays:
    """Normal arrays of reflectance tiles (n, C, H, W); without a denoiser those of colour and features alone."""
    x = np.asarray(2 * tiles - 1, dtype=np.float32)
    return normal_arrays(denoiser, encoder, x, np.ones((len(x), *x.shape[2:]), dtype=np.bool_), schedule)


def score_images(
    images: Sequence[ClassImage],
    subjects: Sequence[Subject],
    tiles_of: Callable[[ClassImage], Float32Array],
    monotonic: Callable[[], float],
    show: Progress,
) -> ImageScores:
    """Score images one after the other.

    Raises:
        TrainingDataInvalid: an image is too small.
    """
    scores: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    seconds = dict.fromkeys(scores, 0.0)
    count = 0
    for i, image in enumerate(images):
        tiles = tiles_of(image)
        count += len(tiles)
        for subject in subjects:
            assert subject.unpaired is not None, "images were seen once"
            began = monotonic()
            found, _ = subject.unpaired(tiles)
            seconds[subject.name] += monotonic() - began
            scores[subject.name].append(float(found.mean()))
        show("images", i + 1, len(images))
    return ImageScores(
        labels=np.asarray([image.label for image in images], dtype=np.str_),
        scores={name: np.asarray(values, dtype=np.float32) for name, values in scores.items()},
        kinds={subject.name: subject.kind for subject in subjects},
        nfe={subject.name: subject.nfe for subject in subjects},
        ms_per_tile={name: 1000 * spent / max(count, 1) for name, spent in seconds.items()},
    )


def class_tables(
    run: str, scored: ImageScores, held_out: Sequence[str], *, draws: int, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of each scorer, over all held-out classes and one by one.

    Held-out and shown classes are drawn apart, as many as there are of each; fewer than two held-out ones give no
    interval.

    Raises:
        TrainingDataInvalid: there is no image of either kind.
    """
    names, event = np.unique(scored.labels, return_inverse=True)
    is_new = np.isin(names, list(held_out))
    new = is_new[event]
    if not new.any() or new.all():
        raise TrainingDataInvalid(
            f"there are {int(new.sum())} images of held-out classes and {int((~new).sum())} of the others; both are "
            "needed: name classes that the folder has, and not all of them"
        )
    rng = np.random.default_rng((seed, 0xA90))
    times = np.zeros((draws, len(names)))
    for side in (is_new, ~is_new):
        times[:, side] = event_draws(rng, int(side.sum()), draws)
    pooled: list[dict[str, Any]] = []
    each: list[dict[str, Any]] = []
    for name, values in scored.scores.items():
        counts = PairCounts.of(values[new], values[~new], event[new], event[~new], len(names))
        bounds = interval(counts.drawn(times), int(is_new.sum()))
        pooled.append(
            {
                "run": run,
                "scorer": name,
                "kind": scored.kinds[name],
                "auroc": rounded(counts.auroc()),
                "auroc_low": rounded(bounds.low),
                "auroc_high": rounded(bounds.high),
                "nfe": scored.nfe[name],
                "ms_per_tile": rounded(scored.ms_per_tile[name]),
                "n_pos": int(new.sum()),
                "n_neg": int((~new).sum()),
            }
        )
        each += [
            {
                "run": run,
                "scorer": name,
                "class": str(names[i]),
                "auroc": rounded(float(counts.wins[i].sum() / counts.pairs[i].sum())),
                "n_pos": int((event == i).sum()),
                "n_neg": int((~new).sum()),
            }
            for i in np.flatnonzero(is_new)
        ]
    return sorted(pooled, key=lambda row: -row["auroc"]), each


def tables_of(pooled: Sequence[dict[str, Any]], each: Sequence[dict[str, Any]]) -> tuple[RecordTable, RecordTable]:
    """The rows of all runs as tables."""
    return (
        RecordTable(
            name="classes",
            title="Classes that a network was not shown",
            text="AUROC of images of held-out classes against held-out images of shown classes; an image's score is "
            "the mean over its tiles. Intervals are bootstrapped by class, held-out and shown ones drawn apart.",
            rows=pooled,
        ),
        RecordTable(
            name="per_class",
            title="The same, class by class",
            text="Each held-out class against all shown ones.",
            rows=each,
        ),
    )
