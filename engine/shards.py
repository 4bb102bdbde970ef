"""Tile shards: many tiles in one safetensors file. ``vigie harvest`` writes them, training reads them.

A shard is a file ``*.safetensors`` with

- the tensor ``tiles``, uint8, uint16 or float16, (n, C, H, W): numbers as stored, 0 in all bands where there is no
  ground;
- optionally the tensor ``earlier`` of the same type and shape: an earlier look at the same ground, row by row;
- metadata, all strings: ``format``; ``family``; ``bands``, a JSON list of C names; ``gain``, a JSON list of C numbers,
  reflectance per stored number (1 for float16 that is reflectance already); ``gsd_m``, metres.

``vigie.tiles.v1`` ends here. ``vigie.tiles.v2`` also says which ground each tile shows, in further metadata:
``sensor``, what took them (a collection's id); ``rows``, a JSON list of n objects with ``cell`` (an id of
:mod:`engine.grid`), ``sensed`` (RFC 3339, UTC) and ``scene``; optionally ``within_days``, how far apart in time two
looks may be that are paired.

Tiles of two shards show the same ground where their cells have one square of ground, or one lies in the other; nothing
else ties them, so any two collections that were read over one area can be paired.

A folder of shards is one data set: what they say of their tiles, and the type of these, must be the same in all of
them. Nothing in a shard can be executed when it is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from engine.errors import ShardInvalid
from engine.grid import Cell

FORMAT_1 = "vigie.tiles.v1"
FORMAT_2 = "vigie.tiles.v2"
SUFFIX = ".safetensors"
KINDS = ("uint8", "uint16", "float16")

PixelArray = npt.NDArray[Any]
"""Numbers as they are stored: uint8, uint16 or float16."""


@dataclass(frozen=True, kw_only=True)
class ShardFacts:
    """What a shard says of its tiles."""

    family: str
    """Model family, such as ``sentinel-2``."""
    bands: tuple[str, ...]
    gain: tuple[float, ...]
    """Reflectance per stored number, one per band."""
    gsd_m: float
    """Pixel size, metres."""
    sensor: str = ""
    """What took the tiles: a collection's id; empty in ``vigie.tiles.v1``."""
    within_days: float | None = None
    """Looks at one place that are further apart are no pair; None: however far."""


@dataclass(frozen=True, kw_only=True)
class ShardRow:
    """Which ground one tile shows, and when it was seen."""

    cell: Cell
    sensed: datetime
    """Sensing time, aware UTC."""
    scene: str
    """Id of the STAC Item."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The tiles of one file, in memory."""

    facts: ShardFacts
    tiles: PixelArray
    """(n, C, H, W)"""
    earlier: PixelArray | None = None
    """The same ground before, or None.  (n, C, H, W)"""
    rows: tuple[ShardRow, ...] = ()
    """One for each tile; empty in ``vigie.tiles.v1``."""


def write_shard(
    path: Path,
    tiles: PixelArray,
    facts: ShardFacts,
    *,
    earlier: PixelArray | None = None,
    rows: Sequence[ShardRow] = (),
) -> None:
    """Write a shard, whole or not at all: ``vigie.tiles.v2`` if there are rows, else ``v1``.

    Args:
        path: where; the name ends in ``.safetensors``.
        tiles: uint8, uint16 or float16, (n, C, H, W).
        facts: what they are; C bands and gains.
        earlier: an earlier look at the same ground, of the same type and shape.
        rows: which ground each tile shows.

    Raises:
        ShardInvalid: types, shapes or names do not fit the format.
    """
    _check(path, Shard(facts=facts, tiles=tiles, earlier=earlier, rows=tuple(rows)))
    tensors = {"tiles": np.ascontiguousarray(tiles)}
    if earlier is not None:
        tensors["earlier"] = np.ascontiguousarray(earlier)
    metadata = {
        "format": FORMAT_2 if rows else FORMAT_1,
        "family": facts.family,
        "bands": json.dumps(facts.bands),
        "gain": json.dumps(facts.gain),
        "gsd_m": repr(float(facts.gsd_m)),
    }
    if rows:
        metadata["sensor"] = facts.sensor
        metadata["rows"] = json.dumps(
            [{"cell": row.cell.id, "sensed": row.sensed.isoformat(), "scene": row.scene} for row in rows]
        )
        if facts.within_days is not None:
            metadata["within_days"] = repr(float(facts.within_days))
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata=metadata)
    os.replace(partial, path)  # noqa: PTH105 - atomic on one file system


def read_shard(path: Path) -> Shard:
    """Read what :func:`write_shard` wrote, of either format.

    Raises:
        ShardInvalid: the file is damaged or not of the format.
    """
    try:
        with safe_open(path, framework="np") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") not in (FORMAT_1, FORMAT_2):
                raise ShardInvalid(
                    f"{path} is of format {metadata.get('format')!r}; {FORMAT_1!r} and {FORMAT_2!r} are read here: "
                    "move it elsewhere"
                )
            names = set(opened.keys())
            shard = Shard(
                facts=_facts(metadata),
                tiles=opened.get_tensor("tiles"),
                earlier=opened.get_tensor("earlier") if "earlier" in names else None,
                rows=_rows(metadata),
            )
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise ShardInvalid(f"{path} is no tile shard ({error}); write it again or remove it") from error
    _check(path, shard)
    return shard


def _facts(metadata: Mapping[str, str]) -> ShardFacts:
    within = metadata.get("within_days")
    return ShardFacts(
        family=metadata["family"],
        bands=tuple(json.loads(metadata["bands"])),
        gain=tuple(float(gain) for gain in json.loads(metadata["gain"])),
        gsd_m=float(metadata["gsd_m"]),
        sensor=metadata["sensor"] if metadata["format"] == FORMAT_2 else "",
        within_days=float(within) if within is not None else None,
    )


def _rows(metadata: Mapping[str, str]) -> tuple[ShardRow, ...]:
    if metadata["format"] == FORMAT_1:
        return ()
    return tuple(
        ShardRow(cell=Cell.parse(row["cell"]), sensed=_aware(row["sensed"]), scene=str(row["scene"]))
        for row in json.loads(metadata["rows"])
    )


def _aware(text: str) -> datetime:
    sensed = datetime.fromisoformat(text)
    if sensed.tzinfo is None:
        raise ValueError(f"the time {text!r} names no zone")
    return sensed.astimezone(UTC)


def _check(path: Path, shard: Shard) -> None:
    facts, tiles, earlier, rows = shard.facts, shard.tiles, shard.earlier, shard.rows
    if path.suffix != SUFFIX:
        raise ShardInvalid(f"{path}: the name of a shard ends in {SUFFIX}")
    if tiles.dtype.name not in KINDS or tiles.ndim != 4 or 0 in tiles.shape:
        raise ShardInvalid(
            f"{path}: tiles are {tiles.dtype}{tiles.shape}; {', '.join(KINDS)} of (n, C, H, W) are expected"
        )
    if earlier is not None and (earlier.dtype != tiles.dtype or earlier.shape != tiles.shape):
        raise ShardInvalid(
            f"{path}: earlier looks are {earlier.dtype}{earlier.shape} and tiles {tiles.dtype}{tiles.shape}; "
            "they must be alike"
        )
    if not len(facts.bands) == len(facts.gain) == tiles.shape[1]:
        raise ShardInvalid(
            f"{path}: {len(facts.bands)} bands and {len(facts.gain)} gains are named for {tiles.shape[1]} channels"
        )
    if not rows:
        return
    if len(rows) != len(tiles) or not facts.sensor:
        raise ShardInvalid(f"{path}: {len(rows)} rows of sensor {facts.sensor!r} are told for {len(tiles)} tiles")
    for row in rows:
        if tiles.shape[2:] != (row.cell.tile_px, row.cell.tile_px):
            raise ShardInvalid(f"{path}: a tile of cell {row.cell.id} is not of {tiles.shape[2]}x{tiles.shape[3]} px")
        if row.sensed.tzinfo is None:
            raise ShardInvalid(f"{path}: the sensing time of cell {row.cell.id} names no zone; give aware UTC")
