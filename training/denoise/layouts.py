"""The layouts of training folders, by name: each makes a pool of normal images, and of pairs where it has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from training.data.classfolder import ClassFolder
from training.data.folder import ImageFolder, read_images
from training.data.ombria import OmbriaFolder, OmbriaImage, has_data, read_mask, read_rgb
from training.data.pool import ImagePool, area_downsample
from training.data.seen_twice import PairPool, SeenTwice
from training.data.shards import ShardFolder
from training.data.spacenet8 import SpaceNet8Folder, read_before
from training.errors import TrainingDataInvalid
from training.presets import DenoiserPreset


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What one folder shows of normal ground."""

    preset: DenoiserPreset
    """As it was given, but with what the folder itself says (the gains of shards)."""
    pool: ImagePool
    pairs: PairPool | None
    """Ground seen twice, for a denoiser that takes the earlier look as condition."""
    digest: str
    """SHA-256 of the folder's files."""


JOINT = "joint"
"""The layout of two folders at once; :mod:`training.denoise.joint` opens it, by the layouts below."""

Opener = Callable[[DenoiserPreset, Path], Ground]


def open_ground(preset: DenoiserPreset, data: Path) -> Ground:
    """The images of a folder in the preset's layout, held-out ones left out.

    Raises:
        TrainingDataInvalid: there is no such layout, the folder is not of it, or nothing is left to train on.
    """
    if preset.layout not in LAYOUTS:
        raise TrainingDataInvalid(
            f"preset {preset.name!r} asks for the unknown layout {preset.layout!r}; there are "
            f"{', '.join(sorted([*LAYOUTS, JOINT]))}"
        )
    ground = LAYOUTS[preset.layout](preset, data)
    if not len(ground.pool):
        raise TrainingDataInvalid(f"{data} holds only held-out images; nothing is left to train on")
    if preset.unet.cond_chans and ground.pairs is None:
        raise TrainingDataInvalid(
            f"preset {preset.name!r} takes an earlier look as condition, and {data} ({preset.layout}) has none; "
            "set unet.cond_chans to 0"
        )
    return ground


def _ombria(preset: DenoiserPreset, data: Path) -> Ground:
    """The *before* images, and as pairs both looks where the mask says that it stayed dry."""
    folder = OmbriaFolder.open(data)
    chosen = folder.of_events(event for event in folder.events if event not in preset.held_out_events)
    pairs = None
    if preset.unet.cond_chans:
        pairs = PairPool(pairs=[_seen_twice(image) for image in chosen], gains=preset.gains)
    pool = ImagePool(images=[read_rgb(image.before) for image in chosen], gains=preset.gains)
    return Ground(preset=preset, pool=pool, pairs=pairs, digest=folder.digest())


def _classes(preset: DenoiserPreset, data: Path) -> Ground:
    """The first half of each class that is not held out, at each of the preset's sides."""
    classes = ClassFolder.open(data)
    unknown = sorted(set(preset.held_out_classes) - set(classes.labels))
    if unknown:
        raise TrainingDataInvalid(f"classes {unknown} are to be held out; {data} has {', '.join(classes.labels)}")
    train, _ = classes.halves()
    full = [read_rgb(image.path) for image in train if image.label not in preset.held_out_classes]
    images = [area_downsample(image, side) for image in full for side in preset.sides_px] if preset.sides_px else full
    pool = ImagePool(images=images, gains=preset.gains)
    return Ground(preset=preset, pool=pool, pairs=None, digest=classes.digest())


def _folder(preset: DenoiserPreset, data: Path) -> Ground:
    """All images but those that a hash of their name holds out."""
    folder = ImageFolder.open(data)
    train, _ = folder.split(preset.held_out_share)
    images = read_images(train, len(preset.gains), preset.tile_px)
    pool = ImagePool(images=images, gains=preset.gains)
    return Ground(preset=preset, pool=pool, pairs=None, digest=folder.digest())


def _shards(preset: DenoiserPreset, data: Path) -> Ground:
    """All tiles of all shards; their own gains replace the preset's."""
    folder = ShardFolder.open(data)
    facts = folder.facts
    if (facts.family, facts.bands) != (preset.family, preset.bands):
        raise TrainingDataInvalid(
            f"the shards of {data} hold {facts.family} tiles of {', '.join(facts.bands)}; preset {preset.name!r} is "
            f"for {preset.family} tiles of {', '.join(preset.bands)}"
        )
    told = replace(preset, gains=facts.gain, image_gsd_m=facts.gsd_m)
    twice = folder.pairs() if preset.unet.cond_chans else []
    seen = [
        SeenTwice(first=before, second=now, dry=(before.max(axis=-1) > 0) & (now.max(axis=-1) > 0))
        for now, before in twice
    ]
    return Ground(
        preset=told,
        pool=ImagePool(images=folder.images(), gains=facts.gain),
        pairs=PairPool(pairs=seen, gains=facts.gain) if seen else None,
        digest=folder.digest(),
    )


def _spacenet8(preset: DenoiserPreset, data: Path) -> Ground:
    """The images before the flood, at half resolution, of the places that a hash of their name leaves."""
    folder = SpaceNet8Folder.open(data)
    train, _ = folder.split(preset.held_out_share)
    pool = ImagePool(images=[read_before(tile) for tile in train], gains=preset.gains)
    return Ground(preset=preset, pool=pool, pairs=None, digest=folder.digest())


def _seen_twice(image: OmbriaImage) -> SeenTwice:
    before, after = read_rgb(image.before), read_rgb(image.after)
    return SeenTwice(first=before, second=after, dry=has_data(before) & has_data(after) & ~read_mask(image.mask))


LAYOUTS: Mapping[str, Opener] = {
    "ombria": _ombria,
    "classes": _classes,
    "folder": _folder,
    "shards": _shards,
    "spacenet8": _spacenet8,
}
