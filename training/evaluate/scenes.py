"""Tiles seen twice, measured as the daemon measures a scene: what its decisions can be judged on without a catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Protocol

import numpy as np
import numpy.typing as npt

from engine.look import Look
from engine.scorers.controls import Energy, MeanColour, WaterIndex, mean_colours
from engine.scoring import SceneScorer
from engine.spectrum import feature_names, spectrum_of
from engine.tiles import Float32Array, Tile, TileBatch
from engine.water import water_share
from training.data.classfolder import ClassImage
from training.data.heldout import FloodTiles, SecondLook, second_looks, tiles_of
from training.data.reflectance import PixelMeaning
from training.data.triples import TripleFolder
from training.errors import TrainingDataInvalid
from training.evaluate.protocol import FLOODED_FROM

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Progress = Callable[[str, int, int], None]
"""Told a stage's name, how much is done, and of how much."""

BATCH = 8
"""Tiles of one call of a network."""
CLASS_SCENE = 8
"""Aerial tiles of one look: fewer than a scene needs to know its own median, for they are of different places."""


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """T tiles, each seen before and after."""

    groups: tuple[str, ...]
    """Events, or classes; the numbers below count into them."""
    group: IntArray
    """(T,)"""
    scene: IntArray
    """Tiles of one number were seen in one look.  (T,)"""
    before: Look
    """On which nothing had happened. Row i is tile i.  (T,)"""
    after: Look
    """The same ground again.  (T,)"""
    share: Float32Array
    """Flooded share of the later look, 0..1; 0 where floods are not known of.  (T,)"""
    controls: Mapping[str, Float32Array]
    """Scores of the later look that need no network, by name.  (T,)"""

    def __len__(self) -> int:
        return len(self.share)

    @property
    def flooded(self) -> BoolArray:
        """(T,)"""
        return np.asarray(self.share >= FLOODED_FROM)

    @property
    def dry(self) -> BoolArray:
        """(T,)"""
        return np.asarray(self.share == 0)

    def take(self, rows: IntArray | BoolArray) -> Scenes:
        """The tiles at ``rows``, ascending or a mask."""
        at = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        ids = [self.before.cell_ids[i] for i in at]
        return Scenes(
            groups=self.groups,
            group=self.group[at],
            scene=self.scene[at],
            before=self.before.restrict(ids),
            after=self.after.restrict(ids),
            share=self.share[at],
            controls={name: values[at] for name, values in self.controls.items()},
        )


class Measure(Protocol):
    """Reflectance tiles to the numbers that are kept of a look."""

    def __call__(self, batch: TileBatch) -> Look:
        """Measure a batch."""


def by_networks(scorer: SceneScorer, family: str) -> Measure:
    """As the daemon does."""
    return lambda batch: scorer.look(batch, family)


def by_spectrum(bands: Sequence[str]) -> Measure:
    """Colour alone, no network: the scores are NaN and there are no embeddings."""

    def measure(batch: TileBatch) -> Look:
        return Look(
            cell_ids=tuple(tile.cell_id for tile in batch.tiles),
            odeed=np.full(len(batch), np.nan, dtype=np.float32),
            water=water_share(batch),
            cls=np.zeros((len(batch), 0), dtype=np.float32),
            valid_ratio=np.ones(len(batch), dtype=np.float32),
            spectrum=spectrum_of(batch, bands),
        )

    return measure


def images_of_each_event(folder: TripleFolder, count: int, rng: np.random.Generator) -> TripleFolder:
    """``count`` images of a folder, or all there are: of the events in turn, so that each has as many as it can."""
    by_event = {event: [image for image in folder.images if image.event == event] for event in folder.events}
    queues = [[images[i] for i in rng.permutation(len(images))] for images in by_event.values()]
    turns = [image for turn in zip_longest(*queues) for image in turn if image is not None]
    chosen = {image.id for image in turns[:count]}
    return replace(folder, images=tuple(image for image in folder.images if image.id in chosen))


def of_triples(
    folder: TripleFolder, meaning: PixelMeaning, bands: Sequence[str], tile_px: int, measure: Measure, show: Progress
) -> Scenes:
    """The complete tiles of a folder of triples; an image is one scene.

    Raises:
        TrainingDataInvalid: a file cannot be understood, or no tile is complete.
        RasterCorrupt: a GeoTIFF is damaged.
    """

    def parts() -> Iterable[tuple[int, FloodTiles]]:
        for i, image in enumerate(folder.images):
            yield folder.events.index(image.event), tiles_of(image, meaning, tile_px)
            show("images", i + 1, len(folder.images))

    return _measured(folder.events, parts(), bands, measure)


def of_classes(
    images: Sequence[ClassImage],
    gains: Sequence[float],
    bands: Sequence[str],
    tile_px: int,
    sides_px: Sequence[int],
    count: int,
    measure: Measure,
    rng: np.random.Generator,
    show: Progress,
) -> Scenes:
    """``count`` tiles of aerial images, evenly over the classes; the later look is *simulated*.

    Raises:
        TrainingDataInvalid: an image is too small.
    """
    labels = tuple(sorted({image.label for image in images}))
    each = -(-count // len(labels))

    def parts() -> Iterable[tuple[int, FloodTiles]]:
        for i, label in enumerate(labels):
            members = [image for image in images if image.label == label]
            first, again = second_looks(rng, members, gains, tile_px, sides_px, each, SecondLook())
            for start in range(0, each, CLASS_SCENE):
                yield i, _dry(first[start : start + CLASS_SCENE], again[start : start + CLASS_SCENE], label)
            show("classes", i + 1, len(labels))

    return _measured(labels, parts(), bands, measure)


def _measured(
    groups: tuple[str, ...], parts: Iterable[tuple[int, FloodTiles]], bands: Sequence[str], measure: Measure
) -> Scenes:
    before, after = list[Look](), list[Look]()
    group, scene = list[int](), list[int]()
    share, colours = list[Float32Array](), list[Float32Array]()
    controls: dict[str, list[Float32Array]] = {}
    for number, (at, tiles) in enumerate(parts):
        if not len(tiles):
            continue
        for look, pixels in ((before, tiles.before), (after, tiles.after)):
            look += _looks(pixels, bands, len(group), measure)
        x = np.asarray(2 * tiles.after - 1, dtype=np.float32)
        for name, values in _controls(x, bands).items():
            controls.setdefault(name, []).append(values)
        colours.append(_colours(np.asarray(2 * tiles.before - 1, dtype=np.float32)))
        colours.append(_colours(x))
        group += [at] * len(tiles)
        scene += [number] * len(tiles)
        share.append(tiles.flooded)
    if not group:
        raise TrainingDataInvalid("no image holds a complete tile; images must be at least as large as one")
    joined = {name: np.concatenate(values) for name, values in controls.items()}
    return Scenes(
        groups=groups,
        group=np.asarray(group, dtype=np.int64),
        scene=np.asarray(scene, dtype=np.int64),
        before=Look.join(before),
        after=Look.join(after),
        share=np.concatenate(share).astype(np.float32),
        controls={**joined, **_mean_colour(colours)},
    )


def _looks(pixels: Float32Array, bands: Sequence[str], first: int, measure: Measure) -> list[Look]:
    found: list[Look] = []
    for start in range(0, len(pixels), BATCH):
        part = pixels[start : start + BATCH]
        side = part.shape[2]
        # These tiles lie nowhere on earth, and their ids say only in which order they came.
        tiles = tuple(
            Tile(
                cell_id=f"{first + start + k:09}",
                row=0,
                col=0,
                crs="EPSG:32631",
                transform=(10, 0, 0, 0, -10, 0),
                size_px=side,
                valid_ratio=1,
            )
            for k in range(len(part))
        )
        whole = np.ones((len(part), side, side), dtype=np.bool_)
        found.append(measure(TileBatch(tiles=tiles, pixels=part, valid=whole, bands=tuple(bands), gsd_m=10)))
    return found


def _controls(x: Float32Array, bands: Sequence[str]) -> dict[str, Float32Array]:
    valid = np.ones((len(x), *x.shape[2:]), dtype=np.bool_)
    found = {"energy": Energy().score(x, valid).score}
    if feature_names(bands) and "red" in bands and "swir16" in bands:
        index = WaterIndex(visible=bands.index("red"), infrared=bands.index("swir16"))
        found["water-index"] = index.score(x, valid).score
    return found


def _colours(x: Float32Array) -> Float32Array:
    return mean_colours(x, np.ones((len(x), *x.shape[2:]), dtype=np.bool_))


def _mean_colour(colours: Sequence[Float32Array]) -> dict[str, Float32Array]:
    """Distance of the later look's mean colour from the earlier looks' colours; none for a handful of tiles."""
    before, after = np.concatenate(colours[0::2]), np.concatenate(colours[1::2])
    if len(before) <= before.shape[1]:
        return {}
    pixels = after[:, :, None, None]
    valid = np.ones((len(after), 1, 1), dtype=np.bool_)
    return {"mean-colour": MeanColour.of(before).score(pixels, valid).score}


def _dry(first: Float32Array, again: Float32Array, label: str) -> FloodTiles:
    n, _, height, width = first.shape
    return FloodTiles(
        before=first,
        after=again,
        flooded=np.zeros(n, dtype=np.float32),
        mask=np.zeros((n, height, width), dtype=np.bool_),
        known=np.ones((n, height, width), dtype=np.bool_),
        events=(label,) * n,
    )
