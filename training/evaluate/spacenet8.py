"""The ODEED paper's experiments on SpaceNet 8 (Le Bellier & Audebert 2024), with a network trained on *before* images.

- ``geographic shift``: before-tiles of areas that it was not trained on, against held-out before-tiles of those it was;
- ``pre/post``: after-tiles against before-tiles of the same held-out places;
- ``flooded/non-flooded``: after-tiles of held-out places with a flooded building or road, against after-tiles with
  buildings or roads of which none is flooded; tiles without either say nothing.

Places are held out by a hash of their name, as in training, so that never two tiles of one place stand on both sides
of a split; intervals draw whole places. How the paper called a tile flooded is not known here: one flooded pixel does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.scorers.controls import mean_colours
from engine.tiles import Float32Array
from training.data.heldout import windows
from training.data.pool import PixelArray, to_reflectance
from training.data.spacenet8 import SpaceNet8Folder, SpaceNet8Looks, SpaceNet8Tile, read_before, read_looks
from training.data.splits import held_out
from training.errors import TrainingDataInvalid
from training.evaluate.bootstrap import PairCounts, event_draws, interval
from training.evaluate.ood import Subject
from training.evaluate.record import RecordTable, rounded
from training.evaluate.scenes import Progress

BoolArray = npt.NDArray[np.bool_]
Experiment = Literal["geographic shift", "pre/post", "flooded/non-flooded"]
EXPERIMENTS: tuple[Experiment, ...] = ("geographic shift", "pre/post", "flooded/non-flooded")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Places by what the network may have seen of them."""

    shown: tuple[SpaceNet8Tile, ...]
    """Trained on."""
    kept: tuple[SpaceNet8Tile, ...]
    """Held out, of the areas that were trained on."""
    elsewhere: tuple[SpaceNet8Tile, ...]
    """Of other areas."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Complete tiles of one look of a place."""

    pixels: Float32Array
    """Reflectance.  (n, 3, tile, tile)"""
    flooded: BoolArray
    """Whether a building or road in it is flooded.  (n,)"""
    dry: BoolArray
    """Whether it shows buildings or roads of which none is flooded.  (n,)"""


@dataclass(frozen=True, kw_only=True)
class JudgedTiles:
    """Tiles of all looks, scored."""

    places: tuple[str, ...]
    """Names; the numbers below count into them."""
    place: npt.NDArray[np.int64]
    """(T,)"""
    elsewhere: BoolArray
    """Of an area that was not trained on.  (T,)"""
    after: BoolArray
    """(T,)"""
    flooded: BoolArray
    """(T,)"""
    dry: BoolArray
    """(T,)"""
    scores: dict[str, Float32Array]
    """By scorer.  (T,) each"""
    ms_per_tile: dict[str, float]

    def sides(self, experiment: Experiment) -> tuple[BoolArray, BoolArray]:
        """Positives and negatives.  (T,) each"""
        if experiment == "geographic shift":
            return self.elsewhere & ~self.after, ~self.elsewhere & ~self.after
        kept = ~self.elsewhere
        if experiment == "pre/post":
            return kept & self.after, kept & ~self.after
        return kept & self.after & self.flooded, kept & self.after & self.dry


def split_places(folder: SpaceNet8Folder, trained_on: Sequence[str], share: float) -> Split:
    """What a run saw, by the areas it was given and the share that it held out.

    Raises:
        TrainingDataInvalid: an area is not there, or nothing was held out to judge on.
    """
    unknown = sorted(set(trained_on) - set(folder.aois))
    if unknown:
        raise TrainingDataInvalid(f"areas {unknown} are not in {folder.root}; it has {', '.join(folder.aois)}")
    known = [tile for tile in folder.tiles if tile.aoi in trained_on]
    kept = tuple(tile for tile in known if held_out(tile.id, share))
    if not kept:
        raise TrainingDataInvalid(
            f"of {len(known)} places of {', '.join(trained_on)} the run held out none (a share of {share:g}); train it "
            "with a larger held_out_share"
        )
    return Split(
        shown=tuple(tile for tile in known if not held_out(tile.id, share)),
        kept=kept,
        elsewhere=tuple(tile for tile in folder.tiles if tile.aoi not in trained_on),
    )


def some_of(places: Sequence[SpaceNet8Tile], count: int, rng: np.random.Generator) -> tuple[SpaceNet8Tile, ...]:
    """At most ``count`` of the places, in their own order."""
    return tuple(places[i] for i in np.sort(rng.permutation(len(places))[:count]))


def cut_before(place: SpaceNet8Tile, tile_px: int, gains: Sequence[float]) -> Cut:
    """The complete tiles of the image before; labels are of the image after, so none holds here."""
    image = read_before(place)
    nothing = np.zeros(image.shape[:2], dtype=np.bool_)
    return _cut(image, nothing, nothing, tile_px, gains)


def cut_looks(looks: SpaceNet8Looks, tile_px: int, gains: Sequence[float]) -> tuple[Cut, list[Cut]]:
    """The complete tiles of the image before, and of each image after."""
    nothing = np.zeros(looks.before.shape[:2], dtype=np.bool_)
    before = _cut(looks.before, nothing, nothing, tile_px, gains)
    return before, [_cut(image, looks.flooded, looks.dry, tile_px, gains) for image in looks.after]


def normal_colours(places: Iterable[SpaceNet8Tile], tile_px: int, gains: Sequence[float], count: int) -> Float32Array:
    """Mean colours in [-1, 1] of ``count`` tiles, or all, of the images before.  (n, 3)"""
    found: list[Float32Array] = []
    for place in places:
        x = np.asarray(2 * cut_before(place, tile_px, gains).pixels - 1, dtype=np.float32)
        if len(x):
            found.append(mean_colours(x, np.ones((len(x), *x.shape[2:]), dtype=np.bool_)))
        if sum(map(len, found)) >= count:
            break
    return np.concatenate(found)[:count] if found else np.zeros((0, len(gains)), dtype=np.float32)


def judge_places(
    split: Split,
    subjects: Sequence[Subject],
    tile_px: int,
    gains: Sequence[float],
    monotonic: Callable[[], float],
    show: Progress,
) -> JudgedTiles:
    """Score the looks of held-out places, and those before of other areas, one place after the other.

    Raises:
        TrainingDataInvalid: a file cannot be read, or no tile is complete.
    """
    places = [*split.kept, *split.elsewhere]
    scores: dict[str, list[Float32Array]] = {subject.name: [] for subject in subjects}
    seconds = dict.fromkeys(scores, 0.0)
    facts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ("place", "elsewhere", "after", "flooded", "dry")}
    for number, place in enumerate(places):
        elsewhere = number >= len(split.kept)
        for after, cut in _looks_of(place, elsewhere, tile_px, gains):
            n = len(cut.pixels)
            if not n:
                continue
            for subject in subjects:
                assert subject.unpaired is not None, "each look is judged alone"
                began = monotonic()
                scores[subject.name].append(subject.unpaired(cut.pixels)[0])
                seconds[subject.name] += monotonic() - began
            told = (np.full(n, number), np.full(n, elsewhere), np.full(n, after), cut.flooded, cut.dry)
            for name, values in zip(facts, told, strict=True):
                facts[name].append(values)
        show("places", number + 1, len(places))
    if not facts["place"]:
        raise TrainingDataInvalid(
            f"{len(places)} places show no complete tile of {tile_px} px at half resolution; train on smaller ones"
        )
    joined = {name: np.concatenate(values) for name, values in facts.items()}
    total = len(joined["place"])
    return JudgedTiles(
        places=tuple(place.id for place in places),
        place=joined["place"].astype(np.int64),
        elsewhere=joined["elsewhere"],
        after=joined["after"],
        flooded=joined["flooded"],
        dry=joined["dry"],
        scores={name: np.concatenate(values) for name, values in scores.items()},
        ms_per_tile={name: 1000 * spent / total for name, spent in seconds.items()},
    )


def experiments_table(judged: JudgedTiles, subjects: Sequence[Subject], *, draws: int, seed: int) -> RecordTable:
    """A row of each experiment and scorer; None where an experiment lacks a side."""
    times = event_draws(np.random.default_rng((seed, 0x5B8)), len(judged.places), draws)
    rows: list[dict[str, Any]] = []
    for experiment in EXPERIMENTS:
        positive, negative = judged.sides(experiment)
        shown = len(np.unique(judged.place[positive | negative]))
        for subject in subjects:
            values = judged.scores[subject.name]
            counts = PairCounts.of(
                values[positive],
                values[negative],
                judged.place[positive],
                judged.place[negative],
                len(judged.places),
            )
            bounds = interval(counts.drawn(times), shown)
            rows.append(
                {
                    "experiment": experiment,
                    "scorer": subject.name,
                    "kind": subject.kind,
                    "auroc": rounded(counts.auroc()),
                    "auroc_low": rounded(bounds.low),
                    "auroc_high": rounded(bounds.high),
                    "nfe": subject.nfe,
                    "ms_per_tile": rounded(judged.ms_per_tile[subject.name]),
                    "n_pos": int(positive.sum()),
                    "n_neg": int(negative.sum()),
                    "places": shown,
                }
            )
    return RecordTable(
        name="experiments",
        title="The paper's experiments",
        text="AUROC of tiles at half resolution; intervals of 95 % draw whole places. *Geographic shift*: other areas "
        "before, against held-out places before. *Pre/post*: held-out places after, against the same before. "
        "*Flooded/non-flooded*: their tiles after with a flooded building or road, against those with dry ones alone.",
        rows=rows,
    )


def _looks_of(
    place: SpaceNet8Tile, elsewhere: bool, tile_px: int, gains: Sequence[float]
) -> Iterator[tuple[bool, Cut]]:
    """Looks to judge, and whether each is after the flood."""
    if elsewhere:
        yield False, cut_before(place, tile_px, gains)
        return
    before, after = cut_looks(read_looks(place), tile_px, gains)
    yield False, before
    for cut in after:
        yield True, cut


def _cut(image: PixelArray, flooded: BoolArray, dry: BoolArray, tile_px: int, gains: Sequence[float]) -> Cut:
    found = [part for part in windows(image.shape[:2], tile_px) if image[part].max(axis=-1).min() > 0]
    wet = np.asarray([bool(flooded[part].any()) for part in found], dtype=np.bool_)
    built = np.asarray([bool(dry[part].any()) for part in found], dtype=np.bool_)
    pixels = [to_reflectance(image[part], gains) for part in found]
    none = np.zeros((0, len(gains), tile_px, tile_px), dtype=np.float32)
    return Cut(pixels=np.stack(pixels) if pixels else none, flooded=wet, dry=built & ~wet)
