"""The encoder's figures on points whose neighbours can be counted."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluate.encoder_checks import neighbour_accuracy, plain_pixels, recall_at_1


def directions(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_neighbours_vote() -> None:
    train = directions(0, 10, 20, 90, 100, 80)
    labels = ["east"] * 3 + ["north"] * 3
    assert neighbour_accuracy(train, labels, directions(5, 95), ["east", "north"], k=3) == 1.0
    assert neighbour_accuracy(train, labels, directions(5, 95), ["east", "east"], k=3) == 0.5


def test_a_tie_goes_to_the_nearer_label() -> None:
    assert neighbour_accuracy(directions(0, 90), ["east", "north"], directions(60), ["north"], k=2) == 1.0


def test_a_majority_outweighs_a_nearer_neighbour() -> None:
    train = directions(44, 0, 0)
    assert neighbour_accuracy(train, ["mid", "east", "east"], directions(45), ["east"], k=3) == 1.0


def test_recall_counts_own_partners() -> None:
    gallery = directions(0, 90, 180)
    assert recall_at_1(directions(10, 100, 350), gallery) == pytest.approx(2 / 3)
    assert recall_at_1(3 * gallery, gallery) == 1.0


def test_plain_pixels_forget_brightness_and_keep_pattern() -> None:
    tiles = np.random.default_rng(0).random((2, 3, 16, 16)).astype(np.float32)
    brighter = tiles + 0.25
    np.testing.assert_allclose(plain_pixels(tiles), plain_pixels(brighter), atol=1e-5)
    assert plain_pixels(tiles).shape == (2, 3 * 64)
    block = tiles[0, 1, 2:4, 4:6].mean() - tiles[0].mean()
    assert plain_pixels(tiles)[0, 64 + 8 + 2] == pytest.approx(block, abs=1e-5)
