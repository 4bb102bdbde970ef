"""The batches of a run: each a function of (seed, step), this process's slice of it, on its device."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.denoise.edm import NoiseLevels
from training.denoise.normal_tiles import TileSource
from training.running.distributed import World


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The rows of one step that this process works on."""

    x: Tensor
    """Clean tiles in [-1, 1], channels last.  (n, C, H, W)"""
    cond: Tensor | None
    """Conditions, or None.  (n, cond_chans, H, W)"""
    sigma: Tensor
    """Noise level of each.  (n,)"""
    noise: Tensor
    """Unit normal, as ``x``."""
    total: int
    """Rows of the whole batch, all processes together."""


class Batches:
    """Draws batches, on a GPU one ahead of the step that is being computed."""

    def __init__(
        self, tiles: TileSource, levels: NoiseLevels, seed: int, world: World, *, ahead: bool | None = None
    ) -> None:
        self.tiles = tiles
        self.levels = levels
        self.seed = seed
        self.world = world
        self.pinned = world.device.type == "cuda"
        # On a CPU a second thread would only take cores from the step.
        wanted = self.pinned if ahead is None else ahead
        self._thread = ThreadPoolExecutor(1, initializer=self._on_own_gpu) if wanted else None
        self._next: tuple[tuple[int, int, int], Future[Batch]] | None = None

    def take(self, index: int, count: int, size_px: int, then: tuple[int, int] | None) -> Batch:
        """This process's slice of the batch of step ``index``: ``count`` tiles of ``size_px`` in all.

        ``then`` are count and size of the next step, or None after the last.

        Raises:
            RunInvalid: there are fewer tiles than processes.
        """
        wanted = (index, count, size_px)
        ready, self._next = self._next, None
        batch = ready[1].result() if ready is not None and ready[0] == wanted else self.draw(*wanted)
        if self._thread is not None and then is not None:
            following = (index + 1, *then)
            self._next = following, self._thread.submit(self.draw, *following)
        return self._on_device(batch)

    def draw(self, index: int, count: int, size_px: int) -> Batch:
        """The same slice, in host memory.

        The whole batch is drawn and then cut: what a tile is must not depend on the number of processes.
        """
        rng = np.random.default_rng((self.seed, index))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        drawn, known = self.tiles.draw(rng, count, size_px)
        x = torch.from_numpy(drawn).contiguous(memory_format=torch.channels_last)
        cond = None if known is None else torch.from_numpy(known)
        sigma = self.levels.draw(count, generator)
        noise = torch.randn(x.shape, generator=generator)
        own = self.world.share(count)
        return Batch(
            x=self._pin(x[own]),
            cond=None if cond is None else self._pin(cond[own]),
            sigma=self._pin(sigma[own]),
            noise=self._pin(noise[own]),
            total=count,
        )

    def _on_own_gpu(self) -> None:
        # A thread begins on the first GPU, and pinning there would take memory from another process.
        if self.pinned:
            torch.cuda.set_device(self.world.device)

    def _pin(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self.pinned else tensor

    def _on_device(self, batch: Batch) -> Batch:
        device = self.world.device
        if device.type == "cpu":
            return batch
        return Batch(
            x=batch.x.to(device, non_blocking=True),
            cond=None if batch.cond is None else batch.cond.to(device, non_blocking=True),
            sigma=batch.sigma.to(device, non_blocking=True),
            noise=batch.noise.to(device, non_blocking=True),
            total=batch.total,
        )
