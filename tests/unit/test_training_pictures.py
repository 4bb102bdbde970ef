"""Sampling against an exact flow, and the sheets that show what was learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.test_training_loop import Ticks
from tests.unit.test_training_run import training
from training.denoise.pictures import Pictures
from training.denoise.sampling import sample
from training.running.sheet import GAP_PX, TITLE_PX, grid


def test_the_sampler_follows_the_exact_flow_of_gaussian_data() -> None:
    """For data N(μ, v) the ideal denoiser is known, and noise z at σ_max ends at μ + (x - μ) √(v / (v + σ_max²))."""
    mean, variance, sigma_max = 0.3, 0.04, 20.0
    calls: list[float] = []

    def ideal(x: torch.Tensor, sigma: float) -> torch.Tensor:
        calls.append(sigma)
        return mean + variance / (variance + sigma**2) * (x - mean)

    noise = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = mean + (sigma_max * noise - mean) * (variance / (variance + sigma_max**2)) ** 0.5
    errors = []
    for steps in (18, 36):
        calls.clear()
        found = sample(ideal, noise, steps=steps, sigma_min=0.002, sigma_max=sigma_max)
        assert len(calls) == 2 * steps - 1
        errors.append(float((found - exact).abs().max()))
    assert errors[0] < 0.02
    # Heun is of order 2: half the step, a quarter of the error or so.
    assert errors[1] < errors[0] / 3


def test_a_sheet_has_its_pictures_where_they_belong() -> None:
    rows = [[np.full((4, 6, 3), 10 * (3 * r + c), np.uint8) for c in range(3)] for r in range(2)]
    sheet = np.asarray(grid(rows, titles=("a", "b", "c")))
    assert sheet.shape == (TITLE_PX + 2 * 4 + GAP_PX, 3 * 6 + 2 * GAP_PX, 3)
    for r in range(2):
        for c in range(3):
            top, left = TITLE_PX + r * (4 + GAP_PX), c * (6 + GAP_PX)
            assert (sheet[top : top + 4, left : left + 6] == 10 * (3 * r + c)).all()


def test_pictures_show_the_tiles_and_repeat(tmp_path: Path) -> None:
    one = training()
    one.step(0, 4)
    state = {name: value.clone() for name, value in one.tensors().items()}
    random = torch.get_rng_state()
    book = Pictures(one, tmp_path, clock=Ticks(), side=2)
    book.draw()
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in one.tensors().items())
    drawn = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(drawn) == {"samples.png", "reconstructions.png"}
    with Image.open(tmp_path / "samples.png") as samples:
        assert samples.size == (2 * 16 + GAP_PX, 2 * 16 + GAP_PX)
    with Image.open(tmp_path / "reconstructions.png") as sheet:
        columns = 1 + 2 * 3 + 2
        assert sheet.size == (columns * (16 + GAP_PX) - GAP_PX, TITLE_PX + 4 * (16 + GAP_PX) - GAP_PX)
        pixels = np.asarray(sheet)
    # Column 1 is a tile with little noise, column 0 the tile itself: alike, and unlike the noisiest column 5.
    left, little, much = (
        pixels[TITLE_PX:, c * (16 + GAP_PX) : c * (16 + GAP_PX) + 16].astype(float) for c in (0, 1, 5)
    )
    assert np.abs(left - little).mean() < np.abs(left - much).mean() / 2
    book.draw()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == drawn


@pytest.mark.parametrize(("every_s", "drawn"), [(2.5, [False, False, True]), (100.0, [False, False, False])])
def test_pictures_are_drawn_when_the_last_are_old(every_s: float, drawn: list[bool], tmp_path: Path) -> None:
    book = Pictures(training(), tmp_path, clock=Ticks(), every_s=every_s, side=1)
    for expected in drawn:
        book.now_and_then()
        assert (tmp_path / "samples.png").is_file() == expected
