"""Folders of co-located images before and after floods, with masks: as strict as judging needs, and no stricter.

``before/``, ``after/`` and ``mask/`` hold files of the same stem, each a WebP, PNG or GeoTIFF of any size, and
``index.csv`` (columns ``id`` and ``event``) may say which images show the same event.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.data.digests import digest_of_files
from training.data.reflectance import SUFFIXES, PixelMeaning, read_flood, read_reflectance
from training.errors import TrainingDataInvalid

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

PARTS = ("before", "after", "mask")


@dataclass(frozen=True, kw_only=True)
class TripleImage:
    """One place, seen before and after a flood."""

    id: str
    event: str
    """What a claim is split by, never the image."""
    before: Path
    after: Path
    mask: Path


@dataclass(frozen=True, kw_only=True)
class Triple:
    """A triple's pixels."""

    before: Float32Array
    """Reflectance, 0..1.  (C, H, W)"""
    after: Float32Array
    """Reflectance of the same ground.  (C, H, W)"""
    present: BoolArray
    """Where both images show ground.  (H, W)"""
    flooded: BoolArray
    """Where the mask says flooded.  (H, W)"""
    known: BoolArray
    """Where the mask says anything.  (H, W)"""


@dataclass(frozen=True, kw_only=True)
class TripleFolder:
    """All triples of one folder, by stem."""

    root: Path
    images: tuple[TripleImage, ...]
    notes: tuple[str, ...]
    """What a reader of results should know of how the folder was understood."""

    @classmethod
    def open(cls, root: Path) -> TripleFolder:
        """Find the triples and read the index, if there is one. No pixel is read.

        Raises:
            TrainingDataInvalid: a sub-folder is missing or empty, a stem lacks a partner or has two files in one
                sub-folder, or the index lacks a column.
        """
        parts = {part: _by_stem(root / part) for part in PARTS}
        everywhere = set.intersection(*(set(files) for files in parts.values()))
        lone = {part: sorted(set().union(*parts.values()) - set(files)) for part, files in parts.items()}
        if any(lone.values()):
            gaps = "; ".join(f"{part}/ lacks {_some(stems)}" for part, stems in lone.items() if stems)
            raise TrainingDataInvalid(
                f"{root}: {gaps}. Each stem needs one file in before/, after/ and mask/: add or remove files"
            )
        events, notes = _events(root / "index.csv", everywhere)
        images = tuple(
            TripleImage(id=stem, event=events[stem], **{part: parts[part][stem] for part in PARTS})
            for stem in sorted(everywhere)
        )
        return cls(root=root, images=images, notes=notes)

    @property
    def events(self) -> tuple[str, ...]:
        """The events, sorted."""
        return tuple(sorted({image.event for image in self.images}))

    def of_events(self, events: Iterable[str]) -> TripleFolder:
        """The same folder with the images of the named events alone.

        Raises:
            TrainingDataInvalid: there is no such event.
        """
        wanted = set(events)
        unknown = wanted - set(self.events)
        if unknown:
            raise TrainingDataInvalid(f"events {sorted(unknown)} are not in {self.root}; it has {_some(self.events)}")
        chosen = tuple(image for image in self.images if image.event in wanted)
        return TripleFolder(root=self.root, images=chosen, notes=self.notes)

    def digest(self) -> str:
        """SHA-256 of the index and of every image file."""
        index = self.root / "index.csv"
        files = [index] if index.is_file() else []
        for image in self.images:
            files += [image.before, image.after, image.mask]
        return digest_of_files(self.root, files)


def read_triple(image: TripleImage, meaning: PixelMeaning) -> Triple:
    """A triple's pixels as reflectance and masks.

    Raises:
        TrainingDataInvalid: a file cannot be understood, or the three differ in size.
        RasterCorrupt: a GeoTIFF is damaged.
    """
    before, before_there = read_reflectance(image.before, meaning)
    after, after_there = read_reflectance(image.after, meaning)
    flooded, known = read_flood(image.mask)
    if not before_there.shape == after_there.shape == flooded.shape:
        sizes = ", ".join(
            f"{path} is {width} x {height}"
            for path, (height, width) in (
                (image.before, before_there.shape),
                (image.after, after_there.shape),
                (image.mask, flooded.shape),
            )
        )
        raise TrainingDataInvalid(f"a triple's files differ in size: {sizes} px; bring them to one grid")
    return Triple(before=before, after=after, present=before_there & after_there, flooded=flooded, known=known)


def _by_stem(folder: Path) -> Mapping[str, Path]:
    if not folder.is_dir():
        raise TrainingDataInvalid(f"{folder} is not there; give the folder that holds before/, after/ and mask/")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        if path.stem in files:
            raise TrainingDataInvalid(f"{files[path.stem]} and {path} have the same stem; keep one of them")
        files[path.stem] = path
    if not files:
        raise TrainingDataInvalid(f"{folder} holds no image; {', '.join(SUFFIXES)} are read")
    return files


def _events(index: Path, stems: set[str]) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """Each stem's event, and what had to be assumed."""
    if not index.is_file():
        note = f"there is no {index.name}: every image counts as an event of its own"
        return {stem: f"image {stem}" for stem in stems}, (note,)
    with index.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        if not {"id", "event"} <= set(reader.fieldnames or ()):
            raise TrainingDataInvalid(f"{index} lacks the columns 'id' and 'event'; add them, or remove the file")
        listed = {_stem(row["id"] or ""): (row["event"] or "").strip() for row in reader}
    unsaid = sorted(stem for stem in stems if not listed.get(stem))
    notes = []
    if unsaid:
        notes.append(f"{index.name} gives no event for {_some(unsaid)}: each counts as an event of its own")
    absent = sorted(set(listed) - stems)
    if absent:
        notes.append(f"{index.name} names {_some(absent)}, of which there are no files")
    return {stem: listed.get(stem) or f"image {stem}" for stem in stems}, tuple(notes)


def _stem(name: str) -> str:
    """An id without the suffix of its file, if someone wrote one."""
    return name[: name.rindex(".")] if name.lower().endswith(SUFFIXES) else name


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    shown = ", ".join(repr(name) for name in listed[:5])
    return shown if len(listed) <= 5 else f"{shown} and {len(listed) - 5} more"
