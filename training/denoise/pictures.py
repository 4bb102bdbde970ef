"""What a denoiser has learned so far, to look at: ``samples.png`` and ``reconstructions.png`` in the run folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from engine.ode import encode_decode, karras_sigmas
from engine.unet import EDMDenoiser
from training.data.pool import Float32Array
from training.denoise.denoiser import DenoiserTraining
from training.denoise.sampling import sample

SAMPLES, RECONSTRUCTIONS = "samples.png", "reconstructions.png"
STEPS = 18
"""Of the sampler, as Karras et al. use for 32 px images."""
LEVELS = (0.25, 1.0, 4.0)
"""Noise levels of the reconstructions, in σ_data."""
SIGMAS = (0.004, 80.0)
"""σ_min and σ_max over σ_data: the range of levels that training draws from."""
GAP_PX = 2
TITLE_PX = 14

UInt8Array = npt.NDArray[np.uint8]


class Pictures:
    """Draws both files with the averaged weights: at most every ``every_s`` seconds, and when asked at the end.

    What is drawn depends on the run's seed alone, so pictures of two moments show the same tiles and the same noise.
    Drawing takes no number from the training's generators.
    """

    def __init__(
        self,
        training: DenoiserTraining,
        folder: Path,
        *,
        clock: Callable[[], float],
        every_s: float = 600.0,
        side: int = 4,
    ) -> None:
        self.training = training
        self.folder = folder
        self.side = side
        self._clock = clock
        self._every_s = every_s
        self._drew = clock()

    def now_and_then(self) -> None:
        """Draw, if the last pictures are old."""
        if self._clock() - self._drew >= self._every_s:
            self.draw()

    def draw(self) -> None:
        """Write ``samples.png`` and ``reconstructions.png``, each whole or not at all."""
        preset, training = self.training.preset, self.training
        rng = np.random.default_rng((training.seed, 0x91C))
        shown, cond = training.tiles.draw(rng, self.side * 2, preset.tile_px)
        look = _Look(shown)
        denoiser = training.averaged()
        _write(self.folder / SAMPLES, self._samples(denoiser, cond, look, rng))
        _write(self.folder / RECONSTRUCTIONS, self._reconstructions(denoiser, shown, cond, look, rng))
        self._drew = self._clock()

    def _samples(
        self, denoiser: EDMDenoiser, cond: Float32Array | None, look: _Look, rng: np.random.Generator
    ) -> Image.Image:
        """``side`` × ``side`` images from noise, where nothing is known of the place."""
        preset, count = self.training.preset, self.side**2
        told = None
        if cond is not None:
            nothing = self.training.tiles.nothing_known(cond)
            told = nothing[np.arange(count) * len(nothing) // count]
        noise = self._normal(rng, (count, preset.unet.in_chans, preset.tile_px, preset.tile_px))
        low, high = (bound * denoiser.sigma_data for bound in SIGMAS)
        with torch.no_grad():
            images = sample(self._denoise(denoiser, told), noise, steps=STEPS, sigma_min=low, sigma_max=high)
        cells = [look.of(image) for image in images.cpu().numpy()]
        return grid([cells[row * self.side : (row + 1) * self.side] for row in range(self.side)], titles=())

    def _reconstructions(
        self,
        denoiser: EDMDenoiser,
        shown: Float32Array,
        cond: Float32Array | None,
        look: _Look,
        rng: np.random.Generator,
    ) -> Image.Image:
        """A tile a row: itself; noised and denoised at each level; ODEED's round trip and its squared error."""
        x = torch.from_numpy(shown).to(self.training.world.device)
        noise = self._normal(rng, shown.shape)
        denoise = self._denoise(denoiser, cond)
        sigma_data = denoiser.sigma_data
        columns, titles = [x], ["image"]
        with torch.no_grad():
            for level in LEVELS:
                noisy = x + level * sigma_data * noise
                columns += [noisy, denoise(noisy, level * sigma_data)]
                titles += [f"{level:g} sigma", "denoised"]
            preset = self.training.preset
            grid_of = karras_sigmas(preset.odeed_steps, SIGMAS[0] * sigma_data, preset.odeed_ratio * sigma_data)
            trip: Tensor = encode_decode(denoise, x, grid_of).reconstruction
        titles += ["ODEED", "error"]
        error = ((trip - x) ** 2).mean(dim=1).cpu().numpy()  # (N, H, W)
        top = max(float(np.quantile(error, 0.99)), 1e-12)
        pictures = [[look.of(image) for image in column.cpu().numpy()] for column in [*columns, trip]]
        maps = [_grey(each / top) for each in error]
        return grid([list(row) for row in zip(*pictures, maps, strict=True)], titles=titles)

    def _denoise(self, denoiser: EDMDenoiser, cond: Float32Array | None) -> Callable[[Tensor, float], Tensor]:
        told = None if cond is None else torch.from_numpy(cond).to(self.training.world.device)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            out: Tensor = denoiser(x, torch.full((len(x),), sigma, device=x.device), told)
            return out

        return denoise

    def _normal(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        normal = rng.standard_normal(shape, dtype=np.float32)
        return torch.from_numpy(normal).to(self.training.world.device)


class _Look:
    """How tiles of a run become 8-bit pictures: the same stretch for all, from the 2nd to the 98th percentile."""

    def __init__(self, tiles: Float32Array) -> None:
        low, high = np.quantile(tiles, (0.02, 0.98), axis=(0, 2, 3))  # (C,)
        self.low = low[:, None, None]
        self.span = np.maximum(high - low, 1e-6)[:, None, None]

    def of(self, image: Float32Array) -> UInt8Array:
        """A tile (C, H, W), its first three bands as red, green and blue, or one as grey.  (H, W, 3)"""
        scaled = (image - self.low) / self.span
        bands = scaled[:3] if len(scaled) >= 3 else np.repeat(scaled[:1], 3, axis=0)
        return _bytes(bands.transpose(1, 2, 0))


def grid(rows: Sequence[Sequence[UInt8Array]], titles: Sequence[str]) -> Image.Image:
    """Pictures of one size (H, W, 3), side by side and below one another, with a title above each column."""
    height, width = rows[0][0].shape[:2]
    top = TITLE_PX if titles else 0
    size = (len(rows[0]) * (width + GAP_PX) - GAP_PX, top + len(rows) * (height + GAP_PX) - GAP_PX)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((column * (width + GAP_PX) + 1, 1), title, fill="black")
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (c * (width + GAP_PX), top + r * (height + GAP_PX)))
    return sheet


def _grey(values: Float32Array) -> UInt8Array:
    return np.repeat(_bytes(values)[:, :, None], 3, axis=2)


def _bytes(values: Float32Array) -> UInt8Array:
    return np.asarray(np.rint(np.clip(values, 0, 1) * 255), dtype=np.uint8)


def _write(path: Path, picture: Image.Image) -> None:
    partial = path.with_suffix(".partial")
    picture.save(partial, format="PNG")
    os.replace(partial, path)  # noqa: PTH105 - atomic on one file system
