"""Tile shards: many tiles in one safetensors file, as ``vigie harvest`` writes them.

A shard is a file ``*.safetensors`` with

- the tensor ``tiles``, uint8, uint16 or float16, (n, C, H, W): numbers as stored, 0 in all bands where there is no
  ground;
- optionally the tensor ``earlier`` of the same type and shape: an earlier look at the same ground, row by row;
- metadata, all strings: ``format`` = ``vigie.tiles.v1``; ``family``; ``bands``, a JSON list of C names; ``gain``, a
  JSON list of C numbers, reflectance per stored number (1 for float16 that is reflectance already); ``gsd_m``, metres.

A folder of shards is one data set: family, bands, gains, type and pixel size must be the same in all of them. Nothing
in a shard can be executed when it is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from training.data.digests import digest_of_files
from training.data.pool import PixelArray
from training.errors import TrainingDataInvalid

FORMAT = "vigie.tiles.v1"
SUFFIX = ".safetensors"
KINDS = ("uint8", "uint16", "float16")


@dataclass(frozen=True, kw_only=True)
class ShardFacts:
    """What a shard says of its tiles."""

    family: str
    bands: tuple[str, ...]
    gain: tuple[float, ...]
    """Reflectance per stored number, one per band."""
    gsd_m: float
    """Pixel size, metres."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The tiles of one file, in memory."""

    facts: ShardFacts
    tiles: PixelArray
    """(n, C, H, W)"""
    earlier: PixelArray | None
    """The same ground before, or None.  (n, C, H, W)"""


def write_shard(path: Path, tiles: PixelArray, facts: ShardFacts, *, earlier: PixelArray | None = None) -> None:
    """Write a shard, whole or not at all.

    Args:
        path: where; the name ends in ``.safetensors``.
        tiles: uint8, uint16 or float16, (n, C, H, W).
        facts: what they are; C bands and gains.
        earlier: an earlier look at the same ground, of the same type and shape.

    Raises:
        TrainingDataInvalid: types, shapes or names do not fit the format.
    """
    _check(path, facts, tiles, earlier)
    tensors = {"tiles": np.ascontiguousarray(tiles)}
    if earlier is not None:
        tensors["earlier"] = np.ascontiguousarray(earlier)
    metadata = {
        "format": FORMAT,
        "family": facts.family,
        "bands": json.dumps(facts.bands),
        "gain": json.dumps(facts.gain),
        "gsd_m": repr(float(facts.gsd_m)),
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata=metadata)
    os.replace(partial, path)  # noqa: PTH105 - atomic on one file system


def read_shard(path: Path) -> Shard:
    """Read what :func:`write_shard` wrote.

    Raises:
        TrainingDataInvalid: the file is damaged or not of the format.
    """
    try:
        with safe_open(path, framework="np") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise TrainingDataInvalid(
                    f"{path} is of format {metadata.get('format')!r}; {FORMAT!r} is read here: move it elsewhere"
                )
            facts = ShardFacts(
                family=metadata["family"],
                bands=tuple(json.loads(metadata["bands"])),
                gain=tuple(float(gain) for gain in json.loads(metadata["gain"])),
                gsd_m=float(metadata["gsd_m"]),
            )
            names = set(opened.keys())
            tiles = opened.get_tensor("tiles")
            earlier = opened.get_tensor("earlier") if "earlier" in names else None
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise TrainingDataInvalid(f"{path} is no tile shard ({error}); write it again or remove it") from error
    _check(path, facts, tiles, earlier)
    return Shard(facts=facts, tiles=tiles, earlier=earlier)


@dataclass(frozen=True, kw_only=True)
class ShardFolder:
    """All shards of one folder, sorted by name."""

    root: Path
    paths: tuple[Path, ...]
    shards: tuple[Shard, ...]

    @classmethod
    def open(cls, root: Path) -> ShardFolder:
        """Read the shards.

        Raises:
            TrainingDataInvalid: there is none, one is damaged, or they do not belong together.
        """
        paths = tuple(sorted(root.glob(f"*{SUFFIX}")))
        if not paths:
            raise TrainingDataInvalid(f"no tile shard (*{SUFFIX}) in {root}; give the folder that holds them")
        shards = tuple(read_shard(path) for path in paths)
        for path, shard in zip(paths, shards, strict=True):
            if shard.facts != shards[0].facts or shard.tiles.dtype != shards[0].tiles.dtype:
                raise TrainingDataInvalid(
                    f"{path} holds {shard.tiles.dtype} tiles of {shard.facts}, and {paths[0]} {shards[0].tiles.dtype} "
                    f"tiles of {shards[0].facts}; put them in two folders"
                )
        return cls(root=root, paths=paths, shards=shards)

    @property
    def facts(self) -> ShardFacts:
        """What all shards say of their tiles."""
        return self.shards[0].facts

    def images(self) -> list[PixelArray]:
        """All tiles, views of (H, W, C)."""
        return _each([shard.tiles for shard in self.shards])

    def pairs(self) -> list[tuple[PixelArray, PixelArray]]:
        """Tiles that have an earlier look, and that look, views of (H, W, C)."""
        both = [(shard.tiles, shard.earlier) for shard in self.shards if shard.earlier is not None]
        return list(zip(_each([now for now, _ in both]), _each([before for _, before in both]), strict=True))

    def digest(self) -> str:
        """SHA-256 of every shard."""
        return digest_of_files(self.root, self.paths)


def _each(arrays: Sequence[PixelArray]) -> list[PixelArray]:
    return [tile for array in arrays for tile in array.transpose(0, 2, 3, 1)]


def _check(path: Path, facts: ShardFacts, tiles: PixelArray, earlier: PixelArray | None) -> None:
    if path.suffix != SUFFIX:
        raise TrainingDataInvalid(f"{path}: the name of a shard ends in {SUFFIX}")
    if tiles.dtype.name not in KINDS or tiles.ndim != 4 or 0 in tiles.shape:
        raise TrainingDataInvalid(
            f"{path}: tiles are {tiles.dtype}{tiles.shape}; {', '.join(KINDS)} of (n, C, H, W) are expected"
        )
    if earlier is not None and (earlier.dtype != tiles.dtype or earlier.shape != tiles.shape):
        raise TrainingDataInvalid(
            f"{path}: earlier looks are {earlier.dtype}{earlier.shape} and tiles {tiles.dtype}{tiles.shape}; "
            "they must be alike"
        )
    if not len(facts.bands) == len(facts.gain) == tiles.shape[1]:
        raise TrainingDataInvalid(
            f"{path}: {len(facts.bands)} bands and {len(facts.gain)} gains are named for {tiles.shape[1]} channels"
        )
