"""Runs scorers over a folder of triples: cheap ones on every tile, expensive ones on a seeded part of them.

Images are read one after the other, first for what their tiles show, then to score them: memory holds one image, all
scores, and a few pixels of each map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from engine.errors import InputMismatch
from training.data.heldout import FloodTiles, tiles_of
from training.data.reflectance import PixelMeaning
from training.data.triples import TripleFolder
from training.errors import TrainingDataInvalid
from training.evaluate.choice import choose_examples, choose_tiles
from training.evaluate.protocol import Ground, Scores

Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

Number = TypeVar("Number", bound=np.generic)

Kind = Literal["control", "unpaired", "paired"]
Result = tuple[Float32Array, Float32Array | None]
"""Scores (n,), NaN for a tile without one, and maps (n, H, W) if there are any."""
Unpaired = Callable[[Float32Array], Result]
"""Scores reflectance tiles (n, C, H, W)."""
Paired = Callable[[Float32Array, Float32Array], Result]
"""Scores reflectance tiles given an earlier look of the same ground, (n, C, H, W) each."""
Progress = Callable[[str, int, int], None]
"""Told a stage's name, how much is done, and of how much."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A scorer under judgement: exactly one of ``unpaired`` and ``paired`` is given."""

    name: str
    kind: Kind
    """``control`` knows nothing but colour and light; it may look at one image or at two."""
    unpaired: Unpaired | None = None
    paired: Paired | None = None
    symmetric: bool = False
    """A paired score that stays the same when the looks are swapped."""
    nfe: int = 0
    """Evaluations of the denoiser for each tile."""
    expensive: bool = False
    """Runs on a part of the tiles only."""
    pixels: bool = False
    """Whether its maps are to be judged."""
    logarithmic: bool = False
    """Whether its logarithm enters fusions: for a score above 0 that spreads over orders of magnitude."""
    reference: bool = False
    """Whether others are asked what they know beyond it."""

    def __post_init__(self) -> None:
        if (self.unpaired is None) == (self.paired is None):
            raise InputMismatch(f"subject {self.name!r} needs either `unpaired` or `paired`, and not both")

    def score(self, now: Float32Array, earlier: Float32Array) -> Result:
        """Score tiles; the earlier looks are shown to paired subjects only."""
        if self.paired is not None:
            return self.paired(now, earlier)
        assert self.unpaired is not None
        return self.unpaired(now)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How much is run."""

    tile_px: int = 64
    tiles: int = 800
    """Tiles that expensive subjects run on, at most: 12 minutes on 2 cores, if an evaluation of the denoiser costs
    15 ms of a core and all subjects together take 80 of them, since flooded tiles are scored before the flood too."""
    pixels: int = 32
    """Pixels of each tile that enter the pixel protocol."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Example:
    """A tile for people to look at."""

    event: str
    image: str
    share: float
    before: Float32Array
    """(C, H, W)"""
    after: Float32Array
    """(C, H, W)"""
    mask: BoolArray
    """(H, W)"""
    error_map: Float32Array | None
    """Of the pictured subject.  (H, W)"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that was scored."""

    ground: Ground
    scores: dict[str, Scores]
    """By subject."""
    common: BoolArray
    """Tiles that every subject ran on.  (T,)"""
    examples: tuple[Example, ...]


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Some subjects and the folder that they are judged on."""

    folder: TripleFolder
    subjects: Sequence[Subject]
    meaning: PixelMeaning
    settings: RunSettings
    monotonic: Callable[[], float]
    progress: Progress

    def __post_init__(self) -> None:
        if len({subject.name for subject in self.subjects}) != len(self.subjects):
            raise InputMismatch("two subjects have the same name; name each by what it does")

    def run(self, picture: str | None = None) -> Outcome:
        """Score all tiles.

        Args:
            picture: the subject whose maps go with the examples; None: no maps.

        Raises:
            TrainingDataInvalid: a file cannot be understood, or no tile is complete.
            RasterCorrupt: a GeoTIFF is damaged.
        """
        ground = self.survey()
        rng = np.random.default_rng((self.settings.seed, 0x7A1))
        if any(subject.expensive for subject in self.subjects):
            chosen = choose_tiles(ground, self.settings.tiles, rng)
        else:
            chosen = np.arange(len(ground))
        shown = choose_examples(ground, chosen, rng)
        ledgers = {subject.name: _Ledger(subject, ground, self.monotonic) for subject in self.subjects}
        pictured = next((subject for subject in self.subjects if subject.name == picture), None)
        examples: list[Example] = []
        for i, image in enumerate(self.folder.images):
            rows = np.flatnonzero(ground.image == i)
            if len(rows):
                tiles = tiles_of(image, self.meaning, self.settings.tile_px)
                at = self._places(i, len(tiles))
                part = np.flatnonzero(np.isin(rows, chosen))
                for subject in self.subjects:
                    which = part if subject.expensive else np.arange(len(rows))
                    if len(which):
                        ledgers[subject.name].add(tiles.take(which), at[which], rows[which])
                seen = np.flatnonzero(np.isin(rows, shown))
                examples += [_example(tiles.take(np.asarray([k])), image.id, pictured) for k in seen]
            self.progress("scoring", i + 1, len(self.folder.images))
        common = np.zeros(len(ground), dtype=np.bool_)
        common[chosen] = True
        return Outcome(
            ground=ground,
            scores={name: ledger.scores() for name, ledger in ledgers.items()},
            common=common,
            examples=tuple(sorted(examples, key=lambda example: -example.share)),
        )

    def survey(self) -> Ground:
        """What every tile shows, before anything is scored.

        Raises:
            TrainingDataInvalid: a file cannot be understood, or no tile is complete.
            RasterCorrupt: a GeoTIFF is damaged.
        """
        numbers = {event: i for i, event in enumerate(self.folder.events)}
        event, number = list[int](), list[int]()
        share, flooded, known = list[Float32Array](), list[BoolArray](), list[BoolArray]()
        for i, image in enumerate(self.folder.images):
            tiles = tiles_of(image, self.meaning, self.settings.tile_px)
            at = self._places(i, len(tiles))
            event += [numbers[image.event]] * len(tiles)
            number += [i] * len(tiles)
            share.append(tiles.flooded)
            flooded.append(_at(tiles.mask, at))
            known.append(_at(tiles.known, at))
            self.progress("reading", i + 1, len(self.folder.images))
        if not event:
            raise TrainingDataInvalid(
                f"{self.folder.root} holds no complete tile of {self.settings.tile_px} px; images must be at least as "
                "large, and show ground in both looks"
            )
        return Ground(
            events=self.folder.events,
            images=tuple(image.id for image in self.folder.images),
            event=np.asarray(event, dtype=np.int64),
            image=np.asarray(number, dtype=np.int64),
            share=np.concatenate(share),
            pixel_flooded=np.concatenate(flooded),
            pixel_known=np.concatenate(known),
        )

    def _places(self, image: int, tiles: int) -> IntArray:
        """Which pixels of an image's tiles are judged, as places in a flat tile, the same for all.  (tiles, K)"""
        rng = np.random.default_rng((self.settings.seed, 0x9F1, image))
        size = self.settings.tile_px**2
        count = min(self.settings.pixels, size)
        return np.argsort(rng.random((tiles, size)), axis=1)[:, :count].astype(np.int64)


class _Ledger:
    """Collects one subject's scores of all tiles."""

    def __init__(self, subject: Subject, ground: Ground, monotonic: Callable[[], float]) -> None:
        self._subject = subject
        self._flooded = ground.flooded
        self._monotonic = monotonic
        total, pixels = ground.pixel_known.shape
        self._now, self._earlier = (np.full(total, np.nan, dtype=np.float32) for _ in range(2))
        self._pixels = np.full((total, pixels), np.nan, dtype=np.float32) if subject.pixels else None
        self._seconds = 0.0
        self._looks = 0

    def add(self, tiles: FloodTiles, at: IntArray, rows: IntArray) -> None:
        """Score tiles that stand at ``rows`` among all, and keep their maps' pixels at the places ``at``."""
        self._now[rows], maps = self._run(tiles.after, tiles.before)
        if self._pixels is not None and maps is not None:
            self._pixels[rows] = _at(maps, at)
        before = self._flooded[rows]
        if before.any() and not self._subject.symmetric:
            self._earlier[rows[before]], _ = self._run(tiles.before[before], tiles.after[before])

    def scores(self) -> Scores:
        """What was collected."""
        return Scores(
            now=self._now,
            earlier=self._earlier,
            pixels=self._pixels,
            ms_per_tile=1000 * self._seconds / self._looks if self._looks else None,
        )

    def _run(self, now: Float32Array, earlier: Float32Array) -> Result:
        began = self._monotonic()
        scores, maps = self._subject.score(now, earlier)
        self._seconds += self._monotonic() - began
        self._looks += len(now)
        if scores.shape != (len(now),):
            raise InputMismatch(f"subject {self._subject.name!r} gave scores {scores.shape} for {len(now)} tiles")
        return scores, maps


def _at(arrays: npt.NDArray[Number], at: IntArray) -> npt.NDArray[Number]:
    """Some pixels of each array (n, H, W).  (n, K)"""
    return np.take_along_axis(arrays.reshape(len(arrays), -1), at, axis=1)


def _example(tile: FloodTiles, image: str, pictured: Subject | None) -> Example:
    maps = None if pictured is None else pictured.score(tile.after, tile.before)[1]
    return Example(
        event=tile.events[0],
        image=image,
        share=float(tile.flooded[0]),
        before=tile.before[0],
        after=tile.after[0],
        mask=tile.mask[0],
        error_map=None if maps is None else maps[0],
    )
