from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.unet import DenoiserUNet, UnetConfig
from training.errors import TrainingDataInvalid
from training.evaluate.denoising import SIGMAS, denoising_rows, held_out_tiles
from training.presets import as_json, denoiser_preset
from training.running.runfolder import RunFolder, write_run

UNET = UnetConfig(in_chans=3, width=8, mults=(1, 2), blocks=1)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    root = tmp_path / "classes"
    for name in ("beach", "river"):
        (root / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(40, 200, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}{i}.webp", lossless=True)
    return root


def fresh_run(path: Path, sigma_data: float) -> RunFolder:
    """A network whose last layer is zero, so that D(x; σ) = c_skip x exactly."""
    preset = replace(denoiser_preset("aerial"), unet=UNET, tile_px=16, sides_px=(48, 32))
    config = {"kind": "denoiser", "preset": as_json(preset), "sigma_data": sigma_data, "steps": 1, "seconds": 1.0}
    write_run(path, config, DenoiserUNet.from_config(UNET).state_dict())
    return RunFolder.open(path, "denoiser")


def test_errors_are_those_of_the_closed_form(tmp_path: Path, classes: Path) -> None:
    sigma_data = 0.4
    run = fresh_run(tmp_path / "run", sigma_data)
    rows = denoising_rows(run, [classes], count=10, seed=3)
    assert {(row.family, row.tiles) for row in rows} == {("aerial", 10)}
    preset = replace(denoiser_preset("aerial"), tile_px=16, sides_px=(48, 32))
    for held_out in held_out_tiles(preset, classes, -1.0, 10, 3):
        for level, sigma in enumerate(SIGMAS):
            noise = np.random.default_rng((3, level)).standard_normal(held_out.tiles.shape, dtype=np.float32)
            skip = sigma_data**2 / (sigma**2 + sigma_data**2)
            expected = np.mean((skip * (held_out.tiles + sigma * noise) - held_out.tiles) ** 2)
            (row,) = [row for row in rows if row.sigma == sigma and row.gsd_m == held_out.gsd_m]
            assert row.mse == pytest.approx(float(expected), rel=1e-3)


def test_pixel_sizes_follow_the_sides(classes: Path) -> None:
    preset = replace(denoiser_preset("aerial"), tile_px=16, sides_px=(48, 24))
    fine, coarse = held_out_tiles(preset, classes, -1.0, 4, 0)
    assert coarse.gsd_m == 2 * fine.gsd_m == pytest.approx(2 * preset.image_gsd_m)


def test_a_run_asks_for_as_many_folders_as_families(tmp_path: Path, classes: Path) -> None:
    with pytest.raises(TrainingDataInvalid, match="2 folders are given"):
        denoising_rows(fresh_run(tmp_path / "run", 0.4), [classes, classes], count=2, seed=0)
