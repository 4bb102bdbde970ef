"""Pictures of a run: tiles as 8-bit images, on one sheet, written whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]

GAP_PX = 2
TITLE_PX = 14


class Look:
    """How tiles of a run become 8-bit pictures: the same stretch for all, from the 2nd to the 98th percentile."""

    def __init__(self, tiles: Float32Array) -> None:
        low, high = np.quantile(tiles, (0.02, 0.98), axis=(0, 2, 3))  # (C,)
        self.low = low[:, None, None]
        self.span = np.maximum(high - low, 1e-6)[:, None, None]

    def of(self, image: Float32Array) -> UInt8Array:
        """A tile (C, H, W), its first three bands as red, green and blue, or one as grey.  (H, W, 3)"""
        scaled = (image - self.low) / self.span
        bands = scaled[:3] if len(scaled) >= 3 else np.repeat(scaled[:1], 3, axis=0)
        return in_bytes(bands.transpose(1, 2, 0))


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


def grey(values: Float32Array) -> UInt8Array:
    """Values (H, W) in 0..1 as a picture.  (H, W, 3)"""
    return np.repeat(in_bytes(values)[:, :, None], 3, axis=2)


def in_bytes(values: Float32Array) -> UInt8Array:
    """0..1 as 0..255."""
    return np.asarray(np.rint(np.clip(values, 0, 1) * 255), dtype=np.uint8)


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG, whole or not at all."""
    partial = path.with_suffix(".partial")
    picture.save(partial, format="PNG")
    os.replace(partial, path)  # noqa: PTH105 - atomic on one file system
