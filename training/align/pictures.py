"""What an encoder has learned so far, to look at: ``attention.png`` and ``neighbours.png`` in the run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from engine.vit import Attention, Block
from training.align.trunk import SensorTrunk
from training.align.xstars import XstarsTraining
from training.data.pairs import PairSource
from training.running.sheet import Look, UInt8Array, grey, grid, write_picture

ATTENTION, NEIGHBOURS = "attention.png", "neighbours.png"
GALLERY = 64
"""Tiles of the other sensor among which neighbours are looked for."""
FOUND = (40, 160, 60)
"""Colour of the frame around the query's own ground."""
CELL_PX = 96
"""Least side of a picture on a sheet; smaller tiles are enlarged by a whole number."""


class EncoderPictures:
    """Draws both files with the teacher, which is what is served: at most every ``every_s`` seconds, and at the end.

    What is drawn depends on the run's seed alone, so pictures of two moments show the same tiles. Drawing takes no
    number from the training's generators.
    """

    def __init__(
        self,
        training: XstarsTraining,
        folder: Path,
        *,
        clock: Callable[[], float],
        every_s: float = 600.0,
        queries: int = 4,
        neighbours: int = 5,
    ) -> None:
        self.training = training
        self.folder = folder
        self.queries = queries
        self.neighbours = neighbours
        self._clock = clock
        self._every_s = every_s
        self._drew = clock()

    def now_and_then(self) -> None:
        """Draw, if the last pictures are old."""
        if self._clock() - self._drew >= self._every_s:
            self.draw()

    def draw(self) -> None:
        """Write ``attention.png``, and ``neighbours.png`` where there are pairs, each whole or not at all."""
        rng = np.random.default_rng((self.training.seed, 0x91C))
        write_picture(self.folder / ATTENTION, self._attention(rng))
        kinds = {source.sensors: source for source in self.training.sources}
        if kinds:
            rows = [row for _, source in sorted(kinds.items()) for row in self._neighbours(rng, source)]
            titles = ["query", *[f"{k + 1}" for k in range(self.neighbours)]]
            write_picture(self.folder / NEIGHBOURS, grid(rows, titles))
        self._drew = self._clock()

    def _attention(self, rng: np.random.Generator) -> Image.Image:
        """Tiles of each sensor, a row each: the tile, then where each head's class token looks in the last block."""
        rows: list[list[UInt8Array]] = []
        side = self.training.preset.tile_px
        for pool in self.training.pools:
            tiles = pool.tiles(rng, self.queries, side)
            maps = class_attention(self.training.teacher, pool.sensor, self._on_device(tiles)).cpu().numpy()
            look = Look(tiles)
            patch = side // maps.shape[-1]
            for tile, heads in zip(tiles, maps, strict=True):
                wide = [np.kron(head / head.max(), np.ones((patch, patch), np.float32)) for head in heads]
                rows.append([_cell(look.of(tile)), *[_cell(grey(each.astype(np.float32))) for each in wide]])
        heads = self.training.preset.vit.heads
        return grid(rows, ["image", *[f"head {k + 1}" for k in range(heads)]])

    def _neighbours(self, rng: np.random.Generator, source: PairSource) -> list[list[UInt8Array]]:
        """Queries of the pair's first sensor, each with its nearest tiles of the second one, the nearest first."""
        queries, gallery = source.pairs(rng, GALLERY, self.training.preset.tile_px)
        first, second = (Look(tiles) for tiles in (queries, gallery))
        a, b = (self._classes(sensor, tiles) for sensor, tiles in zip(source.sensors, (queries, gallery), strict=True))
        order = (a @ b.T).argsort(dim=1, descending=True)[:, : self.neighbours].cpu().numpy()
        return [
            [
                _cell(first.of(queries[q])),
                *[_framed(_cell(second.of(gallery[n])), own=bool(n == q)) for n in order[q]],
            ]
            for q in range(self.queries)
        ]

    @torch.no_grad()
    def _classes(self, sensor: str, tiles: np.ndarray) -> Tensor:
        parts = [self.training.teacher([(sensor, part)])[0] for part in torch.split(self._on_device(tiles), 16)]
        return F.normalize(torch.cat(parts), dim=-1)

    def _on_device(self, tiles: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(tiles)).to(self.training.world.device)


@torch.no_grad()
def class_attention(trunk: SensorTrunk, sensor: str, tiles: Tensor) -> Tensor:
    """Where the class token looks in the last block: softmax(q kᵀ / √d) without itself.  (n, heads, rows, columns)

    ``tiles`` (n, C, H, W) in [-1, 1].
    """
    last = trunk.vit.blocks[-1]
    assert isinstance(last, Block)
    attention: Attention = last.attn
    seen: list[Tensor] = []
    hook = last.norm1.register_forward_hook(lambda module, inputs, out: seen.append(out))
    try:
        trunk([(sensor, tiles)])
    finally:
        hook.remove()
    count, length, dim = seen[0].shape
    q, k, _ = (
        attention.qkv(seen[0]).reshape(count, length, 3, attention.heads, dim // attention.heads).permute(2, 0, 3, 1, 4)
    )
    weights = torch.softmax(q[:, :, :1] @ k.transpose(-1, -2) / (dim // attention.heads) ** 0.5, dim=-1)
    size = trunk.vit.config.patch_size
    return weights[:, :, 0, 1:].reshape(count, attention.heads, tiles.shape[-2] // size, tiles.shape[-1] // size)


def _cell(picture: UInt8Array) -> UInt8Array:
    times = -(-CELL_PX // len(picture))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def _framed(picture: UInt8Array, *, own: bool) -> UInt8Array:
    if not own:
        return picture
    framed = picture.copy()
    for edge in (np.s_[:3], np.s_[-3:], np.s_[:, :3], np.s_[:, -3:]):
        framed[edge] = FOUND
    return framed
