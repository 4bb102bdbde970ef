"""Two quick figures of an encoder, each beside chance and beside plain pixels: class by neighbours, place by date."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.embed import unit_rows
from training.data.classfolder import ClassFolder, ClassImage
from training.data.ombria import read_rgb
from training.data.pool import area_downsample, to_reflectance

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A share of right answers, 0..1, and what it must beat."""

    name: str
    encoder: float
    pixels: float
    """The same with plain pixels, area-averaged to 8 px and centred, in place of embeddings."""
    chance: float


def neighbour_accuracy(
    train: Float32Array, train_labels: list[str], test: Float32Array, test_labels: list[str], k: int = 20
) -> float:
    """Share of test rows whose label is the most frequent one of their k nearest train rows by cosine.

    Ties go to the label with the larger summed similarity. Rows need no norm.  (n, D), (m, D)
    """
    names = np.array(sorted(set(train_labels)))
    codes = np.searchsorted(names, train_labels)
    similarity = unit_rows(test) @ unit_rows(train).T  # (m, n)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    right = 0
    for row, label in enumerate(test_labels):
        votes = np.zeros(len(names))
        # A vote is 1 and a little of its similarity, too little to outweigh another vote.
        np.add.at(votes, codes[nearest[row]], 1 + similarity[row, nearest[row]] / (4 * k))
        right += int(names[votes.argmax()] == label)
    return right / len(test_labels)


def recall_at_1(queries: Float32Array, gallery: Float32Array) -> float:
    """Share of queries whose nearest gallery row by cosine is the one of the same index.  (m, D) each"""
    similarity = unit_rows(queries) @ unit_rows(gallery).T
    return float((similarity.argmax(axis=1) == np.arange(len(queries))).mean())


def plain_pixels(tiles: Float32Array) -> Float32Array:
    """Reflectance tiles (n, C, H, W) area-averaged to 8 x 8 px, less each tile's mean.  (n, C * 64)"""
    n, c, h, w = tiles.shape
    coarse = tiles[:, :, : h // 8 * 8, : w // 8 * 8].reshape(n, c, 8, h // 8, 8, w // 8).mean(axis=(3, 5))
    flat = coarse.reshape(n, -1)
    return np.asarray(flat - flat.mean(axis=1, keepdims=True), dtype=np.float32)


def class_images(
    folder: ClassFolder, gains: tuple[float, ...], tile_px: int
) -> tuple[tuple[Float32Array, list[str]], tuple[Float32Array, list[str]]]:
    """Whole images, area-averaged to a tile, of the half trained on and of the half held out, with labels."""
    first, second = (_tiles(half, gains, tile_px) for half in folder.halves())
    return first, second


def _tiles(images: tuple[ClassImage, ...], gains: tuple[float, ...], tile_px: int) -> tuple[Float32Array, list[str]]:
    tiles = [to_reflectance(area_downsample(read_rgb(image.path), tile_px), gains) for image in images]
    return np.stack(tiles), [image.label for image in images]
