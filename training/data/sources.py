"""The layouts of co-located images, by name: each gives pools for DINO and pairs for MSAD."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.data.classfolder import ClassFolder
from training.data.colocated import UNIT, ColocatedFolder, sensor_name
from training.data.covering import CoveringPairs
from training.data.image_files import KEEP_BYTES
from training.data.msc_france import open_msc_france
from training.data.ombria import OmbriaFolder, OmbriaImage, read_rgb
from training.data.pairs import (
    ColocatedImages,
    PairSource,
    before_and_dry_after,
    fine_and_coarse,
    radar_and_optical,
)
from training.data.pool import ImagePool
from training.data.shards import open_harvest, tile_pairs, time_apart
from training.errors import RunInvalid, TrainingDataInvalid


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """What a run tells every layout."""

    gains: Mapping[str, tuple[float, ...]]
    """Reflectance per 8-bit number of ``ombria``, ``classes`` and ``sentinel-1``; the other layouts bring their own."""
    held_out_events: tuple[str, ...] = ()
    """Event blocks of ``ombria`` that are left out."""
    held_out_share: float = 0.0
    """Share of the names of ``colocated`` and ``msc-france`` that is left out, by a hash of the name."""
    standardise: bool = True
    """Whether sensors of ``colocated`` and ``msc-france`` are brought to common moments, where their own are known."""
    keep_bytes: int = KEEP_BYTES
    """Memory for decoded images of ``colocated`` and ``msc-france``, per sensor."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What one folder, or several, give to train on."""

    pools: tuple[ImagePool, ...]
    """Images for DINO, a pool per sensor."""
    pairs: tuple[PairSource, ...]
    """Pairs for MSAD; a source that is there twice is drawn twice as often."""
    digests: Mapping[str, str]
    """SHA-256 of each folder's files, by layout."""
    notes: tuple[str, ...] = field(default=())
    """What the user should know of the folders."""


PairOpener = Callable[[Path, SourceSettings], Sources]


def open_sources(settings: SourceSettings, folders: Sequence[tuple[str, Path]]) -> Sources:
    """Everything that the named folders give, held-out parts left out.

    Args:
        settings: gains, and what is held out.
        folders: layout and folder of each; a layout may come more than once.

    Raises:
        TrainingDataInvalid: a folder is not of its layout, or all of it is held out.
        RunInvalid: no folder is given, or a layout is unknown.
    """
    if not folders:
        raise RunInvalid("no training images: give --ombria, --classes, or --pairs LAYOUT=DIR")
    opened: list[Sources] = []
    digests: dict[str, str] = {}
    for layout, folder in folders:
        if layout not in PAIR_LAYOUTS:
            raise RunInvalid(f"no pair layout {layout!r}; there are {', '.join(PAIR_LAYOUTS)}")
        found = PAIR_LAYOUTS[layout](folder, settings)
        if not all(len(pool) for pool in found.pools):
            raise TrainingDataInvalid(f"{folder} holds only held-out images of some sensor; hold out less")
        opened.append(found)
        # A second folder of one layout: its digest must not replace the first one's.
        again = sum(name.split(":")[0] == layout for name in digests)
        digests |= {f"{name}:{again + 1}" if again else name: digest for name, digest in found.digests.items()}
    return Sources(
        pools=tuple(pool for one in opened for pool in one.pools),
        pairs=tuple(source for one in opened for source in one.pairs),
        digests=digests,
        notes=tuple(note for one in opened for note in one.notes),
    )


def parse_pairs(text: str) -> tuple[str, Path]:
    """``LAYOUT=DIR`` of the command line.

    Raises:
        RunInvalid: it is not of that form.
    """
    layout, separator, folder = text.partition("=")
    if not separator or not layout or not folder:
        raise RunInvalid(f"{text!r} is not LAYOUT=DIR; layouts are {', '.join(PAIR_LAYOUTS)}")
    return layout, Path(folder)


def _ombria(root: Path, settings: SourceSettings) -> Sources:
    """Images of both sensors for DINO; before beside dry after, and Sentinel-1 beside Sentinel-2."""
    folder = OmbriaFolder.open(root)
    images = folder.of_events(event for event in folder.events if event not in settings.held_out_events)
    gains = settings.gains["ombria"]
    looks = [read_rgb(path) for image in images for path in (image.before, image.after)]
    # Another date of one sensor is what the daemon compares most: such pairs come up twice as often.
    pairs: list[PairSource] = [before_and_dry_after(images, gains)] * 2
    pools = [ImagePool(images=looks, gains=gains, sensor="sentinel-2")]
    if any(image.s1_before for image in images):
        pairs.append(radar_and_optical(images, gains, settings.gains["sentinel-1"]))
        pools.append(_radar_pool(images, settings))
    return Sources(
        pools=tuple(pools),
        pairs=tuple(pairs),
        digests={"ombria": folder.digest()},
    )


def _ombria_radar(root: Path, settings: SourceSettings) -> Sources:
    """Sentinel-1 beside Sentinel-2 alone, of the places that have both."""
    folder = OmbriaFolder.open(root)
    images = [
        image
        for image in folder.of_events(event for event in folder.events if event not in settings.held_out_events)
        if image.s1_before is not None
    ]
    if not images:
        raise TrainingDataInvalid(f"{root} has no Sentinel-1 image of an event that is not held out; use ombria")
    gains = settings.gains["ombria"]
    return Sources(
        pools=(
            ImagePool(images=[read_rgb(image.before) for image in images], gains=gains, sensor="sentinel-2"),
            _radar_pool(images, settings),
        ),
        pairs=(radar_and_optical(images, gains, settings.gains["sentinel-1"]),),
        digests={"ombria-radar": folder.digest()},
    )


def _radar_pool(images: Sequence[OmbriaImage], settings: SourceSettings) -> ImagePool:
    looks = [read_rgb(image.s1_before) for image in images if image.s1_before is not None]
    return ImagePool(images=looks, gains=settings.gains["sentinel-1"], sensor="sentinel-1")


def _classes(root: Path, settings: SourceSettings) -> Sources:
    """The first half of each class, and what a coarser sensor would see of it: simulated."""
    aerial = ClassFolder.open(root)
    train, _ = aerial.halves()
    gains = settings.gains["classes"]
    return Sources(
        pools=(ImagePool(images=[read_rgb(image.path) for image in train], gains=gains, sensor="aerial"),),
        pairs=(fine_and_coarse(train, gains),),
        digests={"classes": aerial.digest()},
    )


def _colocated(root: Path, settings: SourceSettings) -> Sources:
    return _of_folder("colocated", ColocatedFolder.open(root), settings)


def _msc_france(root: Path, settings: SourceSettings) -> Sources:
    return _of_folder("msc-france", open_msc_france(root), settings)


def _of_folder(layout: str, folder: ColocatedFolder, settings: SourceSettings) -> Sources:
    """Every sensor's images for DINO; every two sensors' images of one name as pairs."""
    images = folder.images(settings.held_out_share, standardise=settings.standardise, keep_bytes=settings.keep_bytes)
    alone = {sensor: count for sensor, count in folder.alone().items() if count}
    note = ", ".join(f"{count} of {sensor}" for sensor, count in alone.items())
    return Sources(
        pools=tuple(
            ImagePool(images=found, gains=(UNIT,) * len(folder.looks[sensor].bands), sensor=sensor_name(sensor))
            for sensor, found in images.items()
        ),
        pairs=tuple(folder.pairs(images, settings.held_out_share)),
        digests={layout: folder.digest()},
        notes=(f"{folder.root}: images that no other sensor has serve DINO alone: {note}",) if note else (),
    )


def _shards(root: Path, settings: SourceSettings) -> Sources:
    """All tiles for DINO; tiles beside an earlier look, and beside those of other collections over the same ground."""
    folders = open_harvest(root)
    pairs: list[PairSource] = []
    notes: list[str] = []
    for folder in folders:
        twice = folder.pairs()
        if twice:
            pairs.append(
                ColocatedImages(
                    sensors=(folder.sensor, f"{folder.sensor}-earlier"),
                    first=[now for now, _ in twice],
                    second=[before for _, before in twice],
                    usable=[(now.max(axis=-1) > 0) & (before.max(axis=-1) > 0) for now, before in twice],
                    first_gains=folder.facts.gain,
                    second_gains=folder.facts.gain,
                )
            )
    for one, other in itertools.combinations(folders, 2):
        found = tile_pairs(one, other)
        if not found:
            notes.append(f"{root}: no two tiles of {one.sensor} and {other.sensor} show the same ground in time")
            continue
        notes.append(f"{root}: {len(found)} pairs of {one.sensor} and {other.sensor}, {time_apart(found)}")
        pairs.append(
            CoveringPairs(
                sensors=(one.sensor, other.sensor),
                first=[pair.first.pixels for pair in found],
                second=[pair.second.pixels for pair in found],
                first_gains=one.facts.gain,
                second_gains=other.facts.gain,
                names=[f"cell {pair.first.row.cell.id}" for pair in found],
            )
        )
    return Sources(
        pools=tuple(
            ImagePool(images=folder.images(), gains=folder.facts.gain, sensor=folder.sensor) for folder in folders
        ),
        pairs=tuple(pairs),
        digests={
            "shards" if folder.root == root else f"shards:{folder.root.name}": folder.digest() for folder in folders
        },
        notes=tuple(notes),
    )


PAIR_LAYOUTS: Mapping[str, PairOpener] = {
    "ombria": _ombria,
    "ombria-radar": _ombria_radar,
    "classes": _classes,
    "colocated": _colocated,
    "msc-france": _msc_france,
    "shards": _shards,
}
