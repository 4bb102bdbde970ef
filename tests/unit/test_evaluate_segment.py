"""Flood maps: overlaps counted by hand, heads on tokens that hold the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.vit import VisionTransformer, VitConfig
from training.data.heldout import FloodTiles
from training.data.ombria import OmbriaImage
from training.errors import RunInvalid
from training.evaluate.encoders.segment import (
    Overlap,
    best_threshold,
    chosen_images,
    event_row,
    pixel_logits,
    segment_row,
    water_index,
)
from training.evaluate.encoders.segment_heads import HEADS, HeadFit, HeadName, fit_head, head_names, token_maps

SMALL = VitConfig(img_size=32, patch_size=8, dim=12, depth=3, heads=2)


def test_overlap_by_hand() -> None:
    flooded = np.array([[[1, 1, 0, 0]], [[0, 0, 0, 1]]], dtype=bool)
    called = np.array([[[1, 0, 1, 0]], [[0, 0, 0, 1]]], dtype=bool)
    known = np.array([[[1, 1, 1, 1]], [[1, 1, 0, 1]]], dtype=bool)
    overlap = Overlap.of(called, flooded, known)
    assert overlap.both.tolist() == [1, 1]
    assert overlap.either.tolist() == [3, 1]
    assert overlap.iou() == 0.5
    # Dry: 1 + 2 pixels by both, and 7 known less 2 that both call flooded in the union.
    assert overlap.mean_iou() == pytest.approx((0.5 + 3 / 5) / 2)
    np.testing.assert_allclose(overlap.drawn(np.array([[1, 1], [2, 0], [0, 2.0]])), [0.5, 1 / 3, 1.0])
    dry = Overlap.of(np.zeros_like(called), np.zeros_like(called), known)
    assert dry.iou() is None
    assert np.isnan(dry.drawn(np.ones((1, 2)))).all()


def test_the_threshold_is_the_one_with_the_best_overlap() -> None:
    scores = np.linspace(0, 1, 400, dtype=np.float32).reshape(1, 20, 20)
    flooded = scores > 0.7
    threshold = best_threshold(scores, flooded, np.ones_like(flooded), 0)
    assert threshold == pytest.approx(0.7, abs=0.01)


def test_the_water_index_is_zero_without_light() -> None:
    tiles = np.zeros((1, 3, 1, 2), dtype=np.float32)
    tiles[0, :, 0, 0] = (0.1, 0.2, 0.3)
    np.testing.assert_allclose(water_index(tiles)[0, 0], [0.5, 0.0], atol=1e-6)


def flood_tiles(count: int, side: int = 32, seed: int = 0) -> FloodTiles:
    """Whole patches of 8 px are flooded; these are dark in SWIR."""
    rng = np.random.default_rng(seed)
    blocks = rng.random((count, side // 8, side // 8)) < 0.4
    mask = blocks.repeat(8, axis=1).repeat(8, axis=2)
    after = np.full((count, 3, side, side), 0.3, dtype=np.float32) + rng.normal(0, 0.01, (count, 3, side, side))
    after[:, 0][mask] = 0.05
    return FloodTiles(
        before=after.astype(np.float32),
        after=after.astype(np.float32),
        flooded=mask.mean(axis=(1, 2)).astype(np.float32),
        mask=mask,
        known=np.ones_like(mask),
        events=tuple("AB"[i % 2] for i in range(count)),
    )


def test_pixels_that_tell_the_flood_are_learned_exactly() -> None:
    train, test = flood_tiles(6), flood_tiles(4, seed=1)
    on_train, on_test = pixel_logits(train, test.after, 0)
    threshold = best_threshold(on_train, train.mask, train.known, 0)
    overlap = Overlap.of(on_test > threshold, test.mask, test.known)
    assert overlap.iou() == pytest.approx(1.0, abs=0.03)
    row = segment_row("pixels", "control", "x", overlap, test, 50, 0)
    assert row["events"] == 2
    assert row["low"] <= row["iou"] <= row["high"]
    assert set(event_row("pixels", "x", overlap, test)) == {"subject", "head", "A", "B"}


def test_token_maps_are_the_tokens_of_the_network_in_their_places() -> None:
    torch.manual_seed(0)
    vit = VisionTransformer.from_config(SMALL).eval()
    tiles = np.random.default_rng(0).random((3, 3, 32, 32)).astype(np.float32)
    maps = token_maps(vit, tiles, batch=2)
    assert maps.shape == (3, 4, 12, 4, 4)
    with torch.inference_mode():
        _, tokens = vit(torch.from_numpy(tiles * 2 - 1))
    np.testing.assert_allclose(maps[:, -1], tokens.reshape(3, 4, 4, 12).permute(0, 3, 1, 2).numpy(), atol=5e-3)
    assert not vit.blocks[0]._forward_hooks


@pytest.mark.parametrize("name", HEADS)
def test_heads_find_what_tokens_hold(name: HeadName) -> None:
    tiles = flood_tiles(12)
    # The first channel of every level is the answer.
    answer = tiles.mask[:, ::8, ::8].astype(np.float16)
    noise = np.random.default_rng(2).normal(0, 0.3, (12, 4, 5, 4, 4)).astype(np.float16)
    noise[:, :, 0] = answer[:, None]
    how = HeadFit(steps=40, batch=6, lr=0.03)
    head = fit_head(name, noise, tiles.mask, tiles.known, how, seed=0, progress=lambda *_: None, told="test")
    logits = head.logits(noise, (32, 32))
    assert logits.shape == tiles.mask.shape
    centres = (slice(None), slice(4, None, 8), slice(4, None, 8))
    assert ((logits > 0)[centres] == tiles.mask[centres]).mean() > 0.97


def test_unknown_heads_are_named() -> None:
    assert head_names(None) == HEADS
    assert head_names(["linear"]) == ("linear",)
    with pytest.raises(RunInvalid, match="no head deep; there are linear, upernet-light"):
        head_names(["deep"])


def test_images_are_chosen_evenly_over_events() -> None:
    images = [
        OmbriaImage(id=f"{i:02}", event=event, before=Path(), after=Path(), mask=Path(), s1_before=None)
        for i, event in enumerate("AAAAAAABBC")
    ]
    chosen = chosen_images(images, 6, 0)
    assert sorted(image.event for image in chosen) == ["A", "A", "A", "B", "B", "C"]
    assert chosen == tuple(sorted(chosen, key=lambda image: image.id))
    assert len(chosen_images(images, 99, 0)) == 10
