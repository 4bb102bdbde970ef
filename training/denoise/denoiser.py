"""Trains one EDM denoiser."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from engine.unet import DenoiserUNet, EDMDenoiser
from training.denoise.batches import Batch, Batches
from training.denoise.edm import MovingAverage, NoiseLevels, edm_loss
from training.denoise.normal_tiles import DataMoments, TileSource
from training.presets import DenoiserPreset
from training.running.checkpoint import load_optimizer, optimizer_tensors
from training.running.distributed import ALONE, World
from training.running.loop import StepReport
from training.running.precision import Precision, computing, require_precision
from training.running.schedules import warmup_cosine


class DenoiserTraining:
    """A denoiser, its optimiser and its moving average; a :class:`training.running.loop.Trainee`.

    Over several processes each holds a replica; they exchange gradients and nothing else. The network runs in
    ``precision``; weights, preconditioning, loss, optimiser and average are FP32.
    """

    def __init__(
        self,
        preset: DenoiserPreset,
        tiles: TileSource,
        data: DataMoments,
        seed: int,
        *,
        world: World = ALONE,
        precision: Precision = "fp32",
    ) -> None:
        require_precision(precision, world.device)
        self.preset = preset
        self.tiles = tiles
        self.seed = seed
        self.world = world
        self.precision = precision
        sigma_data = data.sigma
        self.levels = NoiseLevels(sigma_data=sigma_data, p_mean=preset.p_mean, p_std=preset.p_std, wide=preset.wide)
        self.batches = Batches(tiles, self.levels, seed, world)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = DenoiserUNet.from_config(preset.unet)
        # EDM's preconditioning takes data of mean 0. Reflectance of mean μ asks the network for a bias that rises
        # from 0 to μ / σ_data with the noise; it starts half way there, at the middle noise level.
        with torch.no_grad():
            if net.last.bias is not None:
                net.last.bias.copy_(torch.tensor(data.mean) / (2 * sigma_data))
        self.denoiser = EDMDenoiser(net, sigma_data).train()
        # Convolutions are a quarter faster in this layout, on a CPU too.
        self.denoiser.to(device=world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=preset.lr, weight_decay=preset.weight_decay)
        self.average = MovingAverage(net, preset.ema)

    def step(self, index: int, steps: int) -> StepReport:
        """One AdamW step on one random batch."""
        preset = self.preset
        side, count = self.shape_of(index, steps)
        following = self.shape_of(index + 1, steps)[::-1] if index + 1 < steps else None
        batch = self.batches.take(index, count, side, following)
        lr = warmup_cosine(index, steps=steps, warmup=min(preset.warmup, steps // 2), peak=preset.lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        with self._dropout_seeded(index):
            loss = edm_loss(
                lambda x, sigma: self._denoise(x, sigma, batch),
                batch.x,
                batch.sigma,
                batch.noise,
                self.levels.sigma_data,
            )
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = list(self.denoiser.net.parameters())
        whole = self.world.mean_gradients(parameters, loss, len(batch.x) / batch.total)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizer.step()
        self.average.update(self.denoiser.net)
        return StepReport(losses={"loss": float(whole)}, lr=lr, images=batch.total)

    def _denoise(self, x: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        with computing(self.precision, self.world.device):
            out: Tensor = self.denoiser(x, sigma, batch.cond)
        return out

    @contextmanager
    def _dropout_seeded(self, index: int) -> Iterator[None]:
        """Dropout draws from torch's global generators: seeded by step, so that a resumed run repeats it, and by rank,
        so that processes drop different parts."""
        if not self.preset.unet.dropout:
            yield
            return
        device = self.world.device
        seed = int(np.random.default_rng((self.seed, index, self.world.rank, 0xD0)).integers(2**62))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    def shape_of(self, index: int, steps: int) -> tuple[int, int]:
        """Side and number of the tiles of a step: small ones first, whole ones at the end, equally many pixels."""
        preset = self.preset
        if index < round(steps * (1 - preset.finish)):
            return preset.crop_px, preset.batch
        return preset.tile_px, max(1, preset.batch * preset.crop_px**2 // preset.tile_px**2)

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights of the U-Net: what is served."""
        return {name: value.cpu().contiguous() for name, value in self.average.values.items()}

    def averaged(self) -> EDMDenoiser:
        """A copy of the denoiser with the averaged weights, in eval mode, on the device of the training."""
        served = copy.deepcopy(self.denoiser).eval().requires_grad_(False)
        served.net.load_state_dict(self.average.values)
        return served

    def tensors(self) -> Mapping[str, Tensor]:
        """All state, by name."""
        net = {f"net.{name}": value for name, value in self.denoiser.net.state_dict().items()}
        ema = {f"ema.{name}": value for name, value in self.average.values.items()}
        return {**net, **ema, **optimizer_tensors(self.optimizer)}

    def load(self, tensors: Mapping[str, Tensor], counters: Mapping[str, int]) -> None:
        """Take up the state of :meth:`tensors`."""
        self.denoiser.net.load_state_dict(_below("net.", tensors))
        self.average.values = {name: value.to(self.world.device) for name, value in _below("ema.", tensors).items()}
        self.average.count = counters["step"]
        load_optimizer(self.optimizer, tensors)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
