"""The OMBRIA layout: co-located satellite images before and after floods, with flood masks.

``before/ID.webp``, ``after/ID.webp`` (8 bit, three bands: SWIR, NIR, red as they look), ``mask/ID.png`` (1 bit),
``s1_before/ID.webp`` (grey, for some ids) and ``index.csv`` with the columns ``id`` and ``event``.
It is the strict layout that networks are trained on; :mod:`training.data.triples` reads looser ones to judge.
Source: Drakonakis et al., *OmbriaNet*, IEEE JSTARS 15:2341 (2022).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from training.data.digests import digest_of_files
from training.data.triples import TripleImage
from training.errors import TrainingDataInvalid

UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class OmbriaImage(TripleImage):
    """One place, seen before and after a flood.

    Its event is the letter of the event block, the last one of the index's ``event``.
    """

    s1_before: Path | None
    """Sentinel-1 view of the same ground before the flood, where there is one."""


@dataclass(frozen=True, kw_only=True)
class OmbriaFolder:
    """All images of one folder, in the order of its index."""

    root: Path
    images: tuple[OmbriaImage, ...]

    @classmethod
    def open(cls, root: Path) -> OmbriaFolder:
        """Read the index and check that each image's files are there.

        Raises:
            TrainingDataInvalid: the index is missing, lacks a column, is empty, or names a file that is not there.
        """
        index = root / "index.csv"
        if not index.is_file():
            raise TrainingDataInvalid(f"no index.csv in {root}; give the folder that holds before/, after/ and mask/")
        with index.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        if not rows or "id" not in rows[0] or "event" not in rows[0]:
            raise TrainingDataInvalid(f"{index} has no rows or lacks the columns 'id' and 'event'")
        images = tuple(_image(root, row["id"], row["event"]) for row in rows)
        return cls(root=root, images=images)

    @property
    def events(self) -> tuple[str, ...]:
        """The event letters, sorted."""
        return tuple(sorted({image.event for image in self.images}))

    def of_events(self, events: Iterable[str]) -> tuple[OmbriaImage, ...]:
        """The images of the named event blocks.

        Raises:
            TrainingDataInvalid: an event is not in the index.
        """
        wanted = set(events)
        unknown = wanted - set(self.events)
        if unknown:
            raise TrainingDataInvalid(f"event blocks {sorted(unknown)} are not in {self.root}; it has {self.events}")
        return tuple(image for image in self.images if image.event in wanted)

    def digest(self) -> str:
        """SHA-256 of the index and of every image file."""
        files = [self.root / "index.csv"]
        for image in self.images:
            files += [image.before, image.after, image.mask]
            files += [image.s1_before] if image.s1_before else []
        return digest_of_files(self.root, files)


def read_rgb(path: Path) -> UInt8Array:
    """An image's three 8-bit bands.  (H, W, 3)"""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.uint8)


def read_mask(path: Path) -> BoolArray:
    """True where flooded.  (H, W)"""
    with Image.open(path) as image:
        return np.asarray(image.convert("L")) > 0


def has_data(pixels: UInt8Array) -> BoolArray:
    """False where all bands are 0, which is how the 8-bit images mark the edge of a scene.  (H, W)"""
    return np.asarray(pixels.max(axis=-1) > 0)


def _image(root: Path, name: str, event: str) -> OmbriaImage:
    image = OmbriaImage(
        id=name,
        event=event.rsplit("_", 1)[-1],
        before=root / "before" / f"{name}.webp",
        after=root / "after" / f"{name}.webp",
        mask=root / "mask" / f"{name}.png",
        s1_before=_if_there(root / "s1_before" / f"{name}.webp"),
    )
    for path in (image.before, image.after, image.mask):
        if not path.is_file():
            raise TrainingDataInvalid(f"{root}/index.csv names {name!r}, but {path} is not there")
    return image


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None
