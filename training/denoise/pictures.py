"""What a denoiser has learned so far, to look at: ``samples.png`` and ``reconstructions.png`` in the run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.ode import encode_decode, karras_sigmas
from engine.unet import EDMDenoiser
from training.data.pool import Float32Array
from training.denoise.denoiser import DenoiserTraining
from training.denoise.sampling import sample
from training.running.sheet import Look, grey, grid, write_picture

SAMPLES, RECONSTRUCTIONS = "samples.png", "reconstructions.png"
STEPS = 18
"""Of the sampler, as Karras et al. use for 32 px images."""
LEVELS = (0.25, 1.0, 4.0)
"""Noise levels of the reconstructions, in σ_data."""
SIGMAS = (0.004, 80.0)
"""σ_min and σ_max over σ_data: the range of levels that training draws from."""


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
        look = Look(shown)
        denoiser = training.averaged()
        write_picture(self.folder / SAMPLES, self._samples(denoiser, cond, look, rng))
        write_picture(self.folder / RECONSTRUCTIONS, self._reconstructions(denoiser, shown, cond, look, rng))
        self._drew = self._clock()

    def _samples(
        self, denoiser: EDMDenoiser, cond: Float32Array | None, look: Look, rng: np.random.Generator
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
        look: Look,
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
        maps = [grey(each / top) for each in error]
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
