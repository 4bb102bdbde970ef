"""A folder of aerial images in one sub-folder per class, as UC Merced is distributed.

Source: Yang & Newsam, *Bag-of-visual-words and spatial extensions for land-use classification*, ACM GIS (2010).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from training.data.digests import digest_of_files
from training.errors import TrainingDataInvalid

SUFFIXES = frozenset({".webp", ".png", ".tif", ".tiff", ".jpg", ".jpeg"})


@dataclass(frozen=True, kw_only=True)
class ClassImage:
    """One image and the name of its class."""

    path: Path
    label: str


@dataclass(frozen=True, kw_only=True)
class ClassFolder:
    """All images of one folder, sorted by class and name."""

    root: Path
    images: tuple[ClassImage, ...]

    @classmethod
    def open(cls, root: Path) -> ClassFolder:
        """List the images.

        Raises:
            TrainingDataInvalid: there is no sub-folder with an image.
        """
        folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        images = tuple(
            ClassImage(path=path, label=folder.name)
            for folder in folders
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in SUFFIXES
        )
        if not images:
            raise TrainingDataInvalid(f"no sub-folder with images in {root}; give the folder that holds one per class")
        return cls(root=root, images=images)

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, sorted."""
        return tuple(sorted({image.label for image in self.images}))

    def halves(self) -> tuple[tuple[ClassImage, ...], tuple[ClassImage, ...]]:
        """Images to train on and images held out: every second one of each class, in name order."""
        train: list[ClassImage] = []
        held_out: list[ClassImage] = []
        for label in self.labels:
            members = [image for image in self.images if image.label == label]
            train += members[0::2]
            held_out += members[1::2]
        return tuple(train), tuple(held_out)

    def digest(self) -> str:
        """SHA-256 of every image file."""
        return digest_of_files(self.root, [image.path for image in self.images])
