"""Trains one EDM denoiser."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from engine.unet import DenoiserUNet, EDMDenoiser
from training.denoise.edm import MovingAverage, NoiseLevels, edm_loss
from training.denoise.normal_tiles import DataMoments, NormalTiles
from training.presets import DenoiserPreset
from training.running.checkpoint import load_optimizer, optimizer_tensors
from training.running.loop import StepReport
from training.running.schedules import warmup_cosine


class DenoiserTraining:
    """A denoiser, its optimiser and its moving average; a :class:`training.running.loop.Trainee`."""

    def __init__(self, preset: DenoiserPreset, tiles: NormalTiles, data: DataMoments, seed: int) -> None:
        self.preset = preset
        self.tiles = tiles
        self.seed = seed
        sigma_data = data.sigma
        self.levels = NoiseLevels(sigma_data=sigma_data, p_mean=preset.p_mean, p_std=preset.p_std, wide=preset.wide)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = DenoiserUNet.from_config(preset.unet)
        # EDM's preconditioning takes data of mean 0. Reflectance of mean μ asks the network for a bias that rises
        # from 0 to μ / σ_data with the noise; it starts half way there, at the middle noise level.
        with torch.no_grad():
            if net.last.bias is not None:
                net.last.bias.copy_(torch.tensor(data.mean) / (2 * sigma_data))
        self.denoiser = EDMDenoiser(net, sigma_data).train()
        # Convolutions on the CPU are a quarter faster in this layout.
        self.denoiser.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=preset.lr, weight_decay=preset.weight_decay)
        self.average = MovingAverage(net, preset.ema)

    def step(self, index: int, steps: int) -> StepReport:
        """One AdamW step on one random batch."""
        preset = self.preset
        rng = np.random.default_rng((self.seed, index))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        side, batch = self.shape_of(index, steps)
        drawn, known = self.tiles.draw(rng, batch, side)
        x = torch.from_numpy(drawn).contiguous(memory_format=torch.channels_last)
        cond = None if known is None else torch.from_numpy(known)
        sigma = self.levels.draw(batch, generator)
        noise = torch.randn(x.shape, generator=generator)
        lr = warmup_cosine(index, steps=steps, warmup=min(preset.warmup, steps // 2), peak=preset.lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = edm_loss(lambda x, sigma: self.denoiser(x, sigma, cond), x, sigma, noise, self.levels.sigma_data)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.denoiser.net.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.denoiser.net)
        return StepReport(losses={"loss": float(loss.detach())}, lr=lr, images=batch)

    def shape_of(self, index: int, steps: int) -> tuple[int, int]:
        """Side and number of the tiles of a step: small ones first, whole ones at the end, equally many pixels."""
        preset = self.preset
        if index < round(steps * (1 - preset.finish)):
            return preset.crop_px, preset.batch
        return preset.tile_px, max(1, preset.batch * preset.crop_px**2 // preset.tile_px**2)

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights of the U-Net: what is served."""
        return {name: value.contiguous() for name, value in self.average.values.items()}

    def tensors(self) -> Mapping[str, Tensor]:
        """All state, by name."""
        net = {f"net.{name}": value for name, value in self.denoiser.net.state_dict().items()}
        ema = {f"ema.{name}": value for name, value in self.average.values.items()}
        return {**net, **ema, **optimizer_tensors(self.optimizer)}

    def load(self, tensors: Mapping[str, Tensor], counters: Mapping[str, int]) -> None:
        """Take up the state of :meth:`tensors`."""
        self.denoiser.net.load_state_dict(_below("net.", tensors))
        self.average.values = _below("ema.", tensors)
        self.average.count = counters["step"]
        load_optimizer(self.optimizer, tensors)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
