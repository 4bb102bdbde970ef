"""Any folder of co-located images: one sub-folder per sensor, and files of the same name below each.

::

    FOLDER/spot/lyon/0001.png      the same ground as
    FOLDER/landsat/lyon/0001.tif   this one, whole, at any other pixel size
    FOLDER/sensors.json            optional

Files are matched by their path below the sensor's folder, without the suffix; PNG, WebP, JPEG and TIFF are read, and
GeoTIFFs need no place on Earth. A pixel that is 0 in all bands is missing ground. ``sensors.json`` says of a sensor,
by the name of its folder, any of

- ``bands``: which of the file's bands, from 1, in the order wanted; without it all of three, or a grey one three times;
- ``gains``: reflectance per number of each of these; without it 1/255 of 8-bit and 1e-4 of 16-bit numbers;
- ``mean`` and ``std``: its own moments, as ``vigie train statistics`` prints them; if all sensors have them, each is
  brought to those of all together (:mod:`training.data.moments`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import RasterCorrupt, RasterRefused, RasterUnavailable
from training.data.covering import CoveringPairs
from training.data.digests import digest_of_files
from training.data.image_files import KEEP_BYTES, Decoder, ImageFiles
from training.data.moments import Moments, matched, pooled
from training.data.pool import PixelArray
from training.data.reflectance import SIXTEEN_BIT, PixelMeaning, colour_bands, read_reflectance
from training.data.splits import held_out
from training.errors import TrainingDataInvalid

SUFFIXES = frozenset({".webp", ".png", ".tif", ".tiff", ".jpg", ".jpeg"})
SETTINGS = "sensors.json"
UNIT = 1 / 65535
"""Reflectance per number of the images that are handed on: 16 bits, of which 0 in all bands is missing ground."""


@dataclass(frozen=True, kw_only=True)
class SensorLook:
    """What the numbers of one sensor's files mean."""

    bands: tuple[int, ...]
    """Bands of the file, from 1, in the order wanted."""
    gains: tuple[float, ...] | None = None
    """Reflectance per number; None: 1/255 of 8-bit, 1e-4 of 16-bit numbers."""
    moments: Moments | None = None
    """Its own, in reflectance."""


@dataclass(frozen=True, kw_only=True)
class ColocatedFolder:
    """The files of each sensor, by their name without suffix, and what they mean."""

    root: Path
    files: Mapping[str, Mapping[str, Path]]
    """Sensor, then name."""
    looks: Mapping[str, SensorLook]
    others: tuple[Path, ...] = field(default=())
    """Files that count for the digest beside the images."""

    @classmethod
    def open(cls, root: Path) -> ColocatedFolder:
        """List the images and read ``sensors.json``.

        Raises:
            TrainingDataInvalid: there are fewer than two sensors, two share no name, or ``sensors.json`` is wrong.
        """
        folders = sorted(p for p in root.iterdir() if p.is_dir() and p.name[0] not in "._") if root.is_dir() else []
        files = {folder.name: by_name(folder) for folder in folders}
        files = {sensor: found for sensor, found in files.items() if found}
        settings = root / SETTINGS
        said = _settings(settings)
        unknown = sorted(set(said) - set(files))
        if unknown:
            raise TrainingDataInvalid(f"{settings} names {', '.join(unknown)}; {root} has {', '.join(files) or 'none'}")
        looks = {
            sensor: _look(f"{settings}, {sensor}", said.get(sensor, {}), next(iter(found.values())))
            for sensor, found in files.items()
        }
        return cls(root=root, files=checked(root, files), looks=looks, others=(settings,) if settings.is_file() else ())

    @property
    def sensors(self) -> tuple[str, ...]:
        """The sensors' names, in the order of their folders."""
        return tuple(self.files)

    def images(
        self, share: float, *, standardise: bool = True, keep_bytes: int = KEEP_BYTES
    ) -> Mapping[str, ImageFiles]:
        """The images of each sensor, uint16 of :data:`UNIT`, but for the ``share`` of names that is held out.

        They are brought to common moments if ``standardise`` and all sensors' own ones are known.
        """
        own = [look.moments for look in self.looks.values()]
        common = pooled([one for one in own if one is not None]) if standardise and None not in own else None
        return {
            sensor: ImageFiles(
                [path for name, path in found.items() if not held_out(name, share)],
                Decoder(partial(read_look, look=self.looks[sensor], common=common), keep_bytes=keep_bytes),
            )
            for sensor, found in self.files.items()
        }

    def pairs(self, images: Mapping[str, ImageFiles], share: float) -> list[CoveringPairs]:
        """A source of pairs for every two sensors that share a name which is not held out."""
        sources: list[CoveringPairs] = []
        for a, b in itertools.combinations(self.files, 2):
            names = [name for name in self.files[a] if name in self.files[b] and not held_out(name, share)]
            if names:
                sources.append(
                    CoveringPairs(
                        sensors=(sensor_name(a), sensor_name(b)),
                        first=images[a].of([self.files[a][name] for name in names]),
                        second=images[b].of([self.files[b][name] for name in names]),
                        first_gains=(UNIT,) * len(self.looks[a].bands),
                        second_gains=(UNIT,) * len(self.looks[b].bands),
                        names=names,
                    )
                )
        return sources

    def alone(self) -> Mapping[str, int]:
        """How many files of each sensor no other sensor has."""
        elsewhere = {
            sensor: {name for other, found in self.files.items() if other != sensor for name in found}
            for sensor in self.files
        }
        return {sensor: len(set(own) - elsewhere[sensor]) for sensor, own in self.files.items()}

    def digest(self) -> str:
        """SHA-256 of every image file, and of ``sensors.json``."""
        return digest_of_files(
            self.root, [*self.others, *(path for found in self.files.values() for path in found.values())]
        )


def sensor_name(folder: str) -> str:
    """The name by which a sensor's folder goes in training; dots cannot be part of a projection head's name."""
    return folder.replace(".", "-")


def by_name(folder: Path) -> Mapping[str, Path]:
    """The images below a folder, by their path below it without suffix, sorted.

    Raises:
        TrainingDataInvalid: two files differ only in their suffix.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise TrainingDataInvalid(f"{found[name]} and {path} have one name; keep one of them")
        found[name] = path
    return found


def checked(root: Path, files: Mapping[str, Mapping[str, Path]]) -> Mapping[str, Mapping[str, Path]]:
    """The files of at least two sensors with at least one name in common.

    Raises:
        TrainingDataInvalid: they are not.
    """
    if len(files) < 2:
        raise TrainingDataInvalid(
            f"{root} holds images of {len(files)} sensors ({', '.join(files) or 'no sub-folder with images'}); "
            "give a folder with one sub-folder per sensor, two at least, and files of the same names in them"
        )
    if not any(set(files[a]) & set(files[b]) for a, b in itertools.combinations(files, 2)):
        examples = ", ".join(f"{sensor}/{next(iter(found))}" for sensor, found in files.items())
        raise TrainingDataInvalid(f"no two sensors of {root} have a file of the same name: {examples}")
    return files


def read_look(path: Path, look: SensorLook, common: Moments | None = None) -> PixelArray:
    """One image as numbers of :data:`UNIT`, 0 in all bands where ground is missing.  uint16 (H, W, C)

    Raises:
        TrainingDataInvalid: it cannot be decoded, or lacks a band.
    """
    gains = look.gains or (1 / 255,) * len(look.bands)
    deep = look.gains or (SIXTEEN_BIT,) * len(look.bands)
    try:
        values, present = read_reflectance(
            path, PixelMeaning(gains=gains, bands=look.bands, sixteen_bit_gains=deep)
        )  # (C, H, W), (H, W)
    except (RasterCorrupt, RasterRefused, RasterUnavailable) as error:
        raise TrainingDataInvalid(f"{path} cannot be read as a training image: {error}") from error
    if common is not None and look.moments is not None:
        values = matched(values, look.moments, common)
    numbers = np.clip(np.rint(values / UNIT), 1, 65535)
    return np.ascontiguousarray(np.where(present, numbers, 0).astype(np.uint16).transpose(1, 2, 0))


def _settings(path: Path) -> Mapping[str, Mapping[str, Any]]:
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise TrainingDataInvalid(f"{path} is no JSON ({error}); mend it or remove it") from error
    if not isinstance(said, dict) or not all(isinstance(one, dict) for one in said.values()):
        raise TrainingDataInvalid(f'{path} must map sensors to settings, such as {{"spot": {{"bands": [3, 2, 1]}}}}')
    return said


def _look(where: str, said: Mapping[str, Any], example: Path) -> SensorLook:
    unknown = sorted(set(said) - {"bands", "gains", "mean", "std"})
    if unknown:
        raise TrainingDataInvalid(f"{where}: unknown settings {unknown}; there are bands, gains, mean, std")
    bands = tuple(int(one) for one in _numbers(where, said, "bands") or _usual_bands(example))
    gains, mean, std = (_numbers(where, said, key) for key in ("gains", "mean", "std"))
    for key, values in (("gains", gains), ("mean", mean), ("std", std)):
        if values is not None and len(values) != len(bands):
            raise TrainingDataInvalid(f"{where}: {len(values)} {key} for {len(bands)} bands")
    if (mean is None) != (std is None) or (std is not None and min(std) <= 0):
        raise TrainingDataInvalid(f"{where}: give mean and std together, each std above 0")
    moments = Moments(mean=mean, std=std) if mean is not None and std is not None else None
    return SensorLook(bands=bands, gains=gains, moments=moments)


def _numbers(where: str, said: Mapping[str, Any], key: str) -> tuple[float, ...] | None:
    values = said.get(key)
    if values is None:
        return None
    if not isinstance(values, list) or not values or not all(type(one) in (int, float) for one in values):
        raise TrainingDataInvalid(f"{where}: {key} must be a list of numbers, not {values!r}")
    return tuple(float(one) for one in values)


def _usual_bands(example: Path) -> tuple[int, ...]:
    try:
        bands = colour_bands(example)
    except (RasterCorrupt, RasterRefused, RasterUnavailable) as error:
        raise TrainingDataInvalid(f"{example} cannot be read as a training image: {error}") from error
    if len(bands) == 1:
        return bands * 3
    if len(bands) == 3:
        return bands
    raise TrainingDataInvalid(
        f"{example} has {len(bands)} bands; say in {SETTINGS} which ones are wanted, in which order"
    )
