"""Controls against looped references and tiles whose answer is known."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from engine.errors import InputMismatch
from engine.scorers.base import Scorer
from engine.scorers.controls import (
    DarkShare,
    Energy,
    MeanBand,
    MeanColour,
    PngSize,
    Sharpness,
    WaterIndex,
    mean_colours,
)


def images(n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (n, 3, 8, 8)).astype(np.float32)


def holes(n: int = 3) -> np.ndarray:
    return np.random.default_rng(1).random((n, 8, 8)) < 0.7


ALL = np.ones((3, 8, 8), dtype=np.bool_)
CONTROLS: list[Scorer] = [
    Energy(),
    MeanColour(mean=np.zeros(3, np.float32), precision=np.eye(3, dtype=np.float32)),
    DarkShare(band=0),
    MeanBand(band=1),
    WaterIndex(visible=2, infrared=0),
    Sharpness(),
    PngSize(),
]


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_a_control_keeps_the_scorers_promises(control: Scorer) -> None:
    valid = holes()
    valid[2] = False
    whole, alone = control.score(images(), valid), control.score(images()[1:2], valid[1:2])
    assert whole.score.dtype == np.float32
    assert whole.score[1] == pytest.approx(alone.score[0], rel=1e-6)
    assert np.isnan(whole.score[2])
    assert np.isfinite(whole.score[:2]).all()
    assert whole.nfe == control.nfe == 0
    # What is under a hole does not count.
    other = np.where(valid[:, None], images(), np.float32(0.123))
    np.testing.assert_array_equal(control.score(other, valid).score, whole.score)
    if whole.error_map is not None:
        assert whole.error_map.shape == valid.shape
        assert np.isfinite(whole.error_map).all()
        assert whole.error_map[:2].any()
        assert not whole.error_map[~valid].any()
    with pytest.raises(InputMismatch, match="mask"):
        control.score(images(), valid[:, :4])


def test_names_are_stable_and_differ() -> None:
    assert [control.name for control in CONTROLS] == [
        "energy",
        "mean-colour",
        "dark-share",
        "mean-nir-negated",
        "water-index",
        "sharpness",
        "png-size",
    ]


def test_energy_is_the_mean_square() -> None:
    np.testing.assert_allclose(
        Energy().score(images(), ALL).score, (images().astype(np.float64) ** 2).mean(axis=(1, 2, 3)), rtol=1e-5
    )


def test_mean_colour_is_farther_where_normal_tiles_vary_less() -> None:
    colours = np.random.default_rng(1).normal(0, [[0.1, 0.2, 0.3]], (50, 3)).astype(np.float32)
    control = MeanColour.of(np.concatenate([colours, np.full((1, 3), np.nan, np.float32)]))
    away = control.mean + np.float32(0.3) * np.eye(3, dtype=np.float32)
    distances = control.score(np.broadcast_to(away[:, :, None, None], (3, 3, 8, 8)), ALL).score
    assert distances[0] > distances[1] > distances[2]
    flat = np.broadcast_to(colours[:, :, None, None], (50, 3, 8, 8))
    own = control.score(flat, np.ones((50, 8, 8), dtype=np.bool_)).score
    assert own.mean() == pytest.approx(3 * 49 / 50, rel=0.02)  # the sample's mean squared Mahalanobis distance
    np.testing.assert_allclose(mean_colours(flat, np.ones((50, 8, 8), dtype=np.bool_)), colours, rtol=1e-6)
    with pytest.raises(InputMismatch, match="more than 3"):
        MeanColour.of(colours[:3])
    with pytest.raises(InputMismatch, match="2 bands"):
        control.score(images()[:, :2], ALL)


def test_band_controls_equal_their_loops() -> None:
    valid = holes()
    reflectance = (images().astype(np.float64) + 1) / 2
    for tile in range(3):
        dark, nir, index = [], [], []
        for row in range(8):
            for col in range(8):
                if valid[tile, row, col]:
                    swir, near, red = reflectance[tile, :, row, col]
                    dark.append(swir < 0.1055)
                    nir.append(near)
                    index.append((red - swir) / (red + swir))
        assert DarkShare(band=0).score(images(), valid).score[tile] == pytest.approx(np.mean(dark), rel=1e-6)
        assert MeanBand(band=1).score(images(), valid).score[tile] == pytest.approx(-np.mean(nir), rel=1e-6)
        water = WaterIndex(visible=2, infrared=0).score(images(), valid).score[tile]
        assert water == pytest.approx(np.mean(index), rel=1e-5)
    with pytest.raises(InputMismatch, match="band 3"):
        DarkShare(band=3).score(images(), valid)


def test_under_forty_is_exact_on_eight_bit_numbers() -> None:
    numbers = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8)
    x = (2 * (numbers * np.float32(0.00267)) - 1).astype(np.float32)
    assert DarkShare(band=0).score(x, ALL[:1]).score[0] == 40 / 64


def test_no_light_and_negative_reflectance_keep_the_index_in_its_range() -> None:
    x = np.full((1, 3, 8, 8), -1.0, dtype=np.float32)
    assert WaterIndex(visible=2, infrared=0).score(x, ALL[:1]).score[0] == 0
    x[:, 0] = -1.2
    x[:, 2] = -0.9
    assert WaterIndex(visible=2, infrared=0).score(x, ALL[:1]).score[0] == 1


def test_sharpness_of_a_ramp_is_its_slope_and_a_hole_takes_its_neighbours_along() -> None:
    row, col = np.mgrid[:8, :8].astype(np.float32)
    x = np.broadcast_to(np.float32(0.03) * col + np.float32(0.04) * row, (1, 3, 8, 8))
    result = Sharpness().score(x, ALL[:1])
    assert result.score[0] == pytest.approx(0.05, rel=1e-4)
    assert result.error_map is not None
    assert (result.error_map[0, :7, :7] > 0.04).all()
    valid = ALL[:1].copy()
    valid[0, 3, 3] = False
    gone = Sharpness().score(x, valid).error_map
    assert gone is not None
    assert np.argwhere(gone[0, :7, :7] == 0).tolist() == [[2, 3], [3, 2], [3, 3]]
    thin = np.zeros_like(valid)
    thin[0, 2] = True
    assert np.isnan(Sharpness().score(x, thin).score[0])


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_png_size_is_that_of_a_file_that_holds_the_tile(bands: int) -> None:
    x = np.random.default_rng(2).uniform(-1.2, 1.2, (2, bands, 8, 8)).astype(np.float32)
    x[1] = 0.5
    sizes = PngSize().score(x, np.ones((2, 8, 8), dtype=np.bool_)).score
    assert sizes[0] > sizes[1]
    # The file of that size gives the tile back, bands in colour or one below the other.
    rows = np.rint(np.clip((x[0] + 1) / 2, 0, 1) * 255).astype(np.uint8)
    pixels = np.moveaxis(rows, 0, -1) if bands == 3 else rows.reshape(-1, 8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=9)
    assert sizes[0] == len(file.getvalue())
    np.testing.assert_array_equal(np.asarray(Image.open(file)), pixels)
