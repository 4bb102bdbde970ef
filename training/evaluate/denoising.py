"""How well networks denoise tiles that none of them saw: what they are trained for, measured at fixed noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engine.tiles import Float32Array
from training.data.classfolder import ClassFolder
from training.data.heldout import class_tiles, flood_tiles
from training.data.ombria import OmbriaFolder
from training.denoise.joint import SIGNS, planes
from training.denoise.layouts import JOINT
from training.denoise.run_preset import preset_of
from training.errors import TrainingDataInvalid
from training.presets import DenoiserPreset, denoiser_preset
from training.running.runfolder import RunFolder
from training.running.serving import BATCH, build_denoiser

SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Noise levels, in units of images in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Tiles of one family at one pixel size."""

    family: str
    gsd_m: float
    sign: float
    """What a joint network is told."""
    tiles: Float32Array
    """In [-1, 1].  (n, C, H, W)"""


@dataclass(frozen=True, kw_only=True)
class DenoisingRow:
    """One network on one family at one noise level."""

    run: str
    parameters: int
    family: str
    gsd_m: float
    sigma: float
    mse: float
    """Mean squared error of the denoised tile, images in [-1, 1]."""
    tiles: int


def held_out_tiles(preset: DenoiserPreset, data: Path, sign: float, count: int, seed: int) -> list[HeldOut]:
    """Tiles of a family's preset that it holds out, ``count`` for each pixel size.

    Raises:
        TrainingDataInvalid: the folder is not of the preset's layout, or that layout holds nothing out.
    """
    rng = np.random.default_rng((seed, 0xDE))
    if preset.layout == "ombria":
        images = OmbriaFolder.open(data).of_events(preset.held_out_events)
        found = flood_tiles(images, preset.gains, preset.tile_px).before
        chosen = [(preset.image_gsd_m, found[np.sort(rng.permutation(len(found))[:count])])]
    elif preset.layout == "classes":
        _, images_left = ClassFolder.open(data).halves()
        chosen = []
        for side in preset.sides_px:
            tiles = class_tiles(rng, images_left, preset.gains, preset.tile_px, (side,), count)
            chosen.append((preset.image_gsd_m * max(preset.sides_px) / side, tiles))
    else:
        raise TrainingDataInvalid(f"layout {preset.layout!r} holds no tiles out; ombria and classes do")
    return [
        HeldOut(family=preset.family, gsd_m=gsd_m, sign=sign, tiles=np.asarray(tiles * 2 - 1, dtype=np.float32))
        for gsd_m, tiles in chosen
    ]


def folders_of(run: RunFolder, data: Sequence[Path]) -> list[tuple[DenoiserPreset, Path, float]]:
    """The presets that a run learned, each with its folder and what a joint network is told of it.

    Raises:
        TrainingDataInvalid: there are not as many folders as the run has parts.
    """
    preset = preset_of(run)
    presets = [denoiser_preset(name) for name in preset.parts] if preset.layout == JOINT else [preset]
    if len(presets) != len(data):
        raise TrainingDataInvalid(f"{run.path.name} learned {len(presets)} families; {len(data)} folders are given")
    return list(zip(presets, data, SIGNS, strict=False))


def denoising_rows(run: RunFolder, data: Sequence[Path], *, count: int, seed: int) -> list[DenoisingRow]:
    """A run's network on every family that it learned; noise and tiles are the same for every run.

    Raises:
        TrainingDataInvalid: folders that do not fit the run.
    """
    preset = preset_of(run)
    denoiser = build_denoiser(run)
    size = sum(value.numel() for value in denoiser.net.parameters())
    rows = []
    for part, folder, sign in folders_of(run, data):
        for held_out in held_out_tiles(part, folder, sign, count, seed):
            for level, sigma in enumerate(SIGMAS):
                noise = np.random.default_rng((seed, level)).standard_normal(held_out.tiles.shape, dtype=np.float32)
                total = 0.0
                for start in range(0, len(held_out.tiles), BATCH):
                    x = held_out.tiles[start : start + BATCH]
                    cond = _condition(preset, held_out, x)
                    with torch.no_grad():
                        clean = denoiser(
                            torch.from_numpy(x + np.float32(sigma) * noise[start : start + BATCH]),
                            torch.full((len(x),), sigma),
                            None if cond is None else torch.from_numpy(cond),
                        ).numpy()
                    total += float(((clean - x) ** 2).mean(axis=(1, 2, 3)).sum())
                rows.append(
                    DenoisingRow(
                        run=run.path.name,
                        parameters=size,
                        family=held_out.family,
                        gsd_m=held_out.gsd_m,
                        sigma=sigma,
                        mse=total / len(held_out.tiles),
                        tiles=len(held_out.tiles),
                    )
                )
    return rows


def _condition(preset: DenoiserPreset, held_out: HeldOut, x: Float32Array) -> Float32Array | None:
    """What the network is told: family and pixel size, nothing of the place, or it takes no condition."""
    if preset.layout == JOINT:
        return planes(held_out.sign, held_out.gsd_m, len(x), x.shape[-1])
    if preset.unet.cond_chans:
        return np.zeros((len(x), preset.unet.cond_chans, *x.shape[2:]), dtype=np.float32)
    return None
