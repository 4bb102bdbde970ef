"""Georeferenced images before and after an event, without a map of it: the same cells of the common grid, seen twice.

Files are read as ``vigie score`` reads them. Nobody says which tile was damaged, so what is judged is whether tiles
after the event score above tiles before it, and on the ground that both show, a tile against itself. Light, season and
processing differ too, and no figure here can tell them from the event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine.detect import detect
from engine.errors import BandMissing
from engine.grid import Cell
from engine.judge import DetectSettings
from engine.look import Look
from engine.read_plan import ReadLimits, plan_of_file
from engine.reference import EarlierLook, Reference
from engine.scoring import SceneScorer
from engine.sensors import sensor_of_file
from engine.tiles import Float32Array, Tile, TileBatch
from training.errors import TrainingDataInvalid
from training.evaluate.bootstrap import PairCounts, event_draws, interval
from training.evaluate.ood import Subject
from training.evaluate.record import RecordTable, rounded
from training.evaluate.scenes import BATCH, Progress

SUFFIXES = (".tif", ".tiff")
BLOCK_LEVELS = 3
"""Cells of 8 x 8 others stand for events in the bootstrap."""

_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)

Ground = Literal["all", "common"]


@dataclass(frozen=True, kw_only=True)
class SeenGround:
    """Complete tiles of some files, one a cell, by cell id."""

    cell_ids: tuple[str, ...]
    """Sorted."""
    batch: TileBatch
    """In that order."""

    def at(self, cell_ids: Sequence[str]) -> SeenGround:
        """The tiles of some cells, all of which must be there, in their order."""
        rows = {cell: i for i, cell in enumerate(self.cell_ids)}
        return SeenGround(cell_ids=tuple(cell_ids), batch=self.batch.subset([rows[cell] for cell in cell_ids]))


def files_of(folder: Path) -> list[Path]:
    """The GeoTIFFs of a folder, sorted.

    Raises:
        TrainingDataInvalid: there is none.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise TrainingDataInvalid(f"{folder} holds no GeoTIFF; give the folder that holds pre/ and post/")
    return files


def read_ground(files: Sequence[Path], bands: Sequence[str], tile_px: int, show: Progress) -> SeenGround:
    """All complete tiles of some files; of a cell that two show, the first counts.

    Raises:
        TrainingDataInvalid: there is no complete tile, or a file lacks a band.
        RasterCorrupt, RasterRefused, SensorUnknown: a file cannot be read.
    """
    # rasterio stays out of machines that only train.
    from engine.raster import describe, read_tiles

    tiles: dict[str, tuple[Tile, Float32Array]] = {}
    gsd_m = 0.0
    for i, path in enumerate(files):
        info = describe(path, ReadLimits())
        sensor = sensor_of_file(
            count=info.count, dtypes=info.dtypes, descriptions=info.descriptions, alpha=info.alpha, path=info.path
        )
        try:
            plan = plan_of_file(info, sensor, tuple(bands))
        except BandMissing as error:
            raise TrainingDataInvalid(f"{path} cannot be judged with the bands {', '.join(bands)}: {error}") from error
        for batch in read_tiles(plan, None, tile_px=tile_px, min_valid_ratio=1.0):
            gsd_m = batch.gsd_m
            for tile, pixels in zip(batch.tiles, batch.pixels, strict=True):
                tiles.setdefault(tile.cell_id, (tile, pixels))
        show("files", i + 1, len(files))
    if not tiles:
        raise TrainingDataInvalid(f"{files[0].parent} shows no complete tile of {tile_px} px")
    ids = tuple(sorted(tiles))
    pixels = np.stack([tiles[cell][1] for cell in ids])
    batch = TileBatch(
        tiles=tuple(tiles[cell][0] for cell in ids),
        pixels=pixels,
        valid=np.ones((len(ids), *pixels.shape[2:]), dtype=np.bool_),
        bands=tuple(bands),
        gsd_m=gsd_m,
    )
    return SeenGround(cell_ids=ids, batch=batch)


def common_cells(pre: SeenGround, post: SeenGround) -> tuple[str, ...]:
    """Cells that both show, sorted."""
    return tuple(sorted(set(pre.cell_ids) & set(post.cell_ids)))


def thinned(pre: SeenGround, post: SeenGround, count: int, rng: np.random.Generator) -> tuple[SeenGround, SeenGround]:
    """At most ``count`` tiles of each; of the cells that both show, all that fit, and the same in both."""
    common = list(common_cells(pre, post))
    both = [common[i] for i in rng.permutation(len(common))[:count]]
    thin: list[SeenGround] = []
    for ground in (pre, post):
        alone = sorted(set(ground.cell_ids) - set(common))
        rest = [alone[i] for i in rng.permutation(len(alone))[: count - len(both)]]
        thin.append(ground.at(sorted([*both, *rest])))
    return thin[0], thin[1]


def judge_ground(
    pre: SeenGround, post: SeenGround, subjects: Sequence[Subject], *, draws: int, seed: int, show: Progress
) -> RecordTable:
    """AUROC of tiles after the event against tiles before it; a paired score of one look given the other.

    A symmetric paired score has no AUROC: its median is told, and nothing is there to hold it against.
    """
    common = common_cells(pre, post)
    rows: list[dict[str, Any]] = []
    for i, subject in enumerate(subjects):
        if subject.unpaired is not None:
            after, before = subject.unpaired(post.batch.pixels)[0], subject.unpaired(pre.batch.pixels)[0]
            rows.append(_row(subject, "all", after, before, post.cell_ids, pre.cell_ids, draws, seed))
            if common:
                at = [np.isin(np.asarray(ground.cell_ids), list(common)) for ground in (post, pre)]
                rows.append(_row(subject, "common", after[at[0]], before[at[1]], common, common, draws, seed))
        elif common:
            now, earlier = post.at(common).batch.pixels, pre.at(common).batch.pixels
            after = subject.score(now, earlier)[0]
            before = after[:0] if subject.symmetric else subject.score(earlier, now)[0]
            rows.append(_row(subject, "common", after, before, common, common[: len(before)], draws, seed))
        show("scorers", i + 1, len(subjects))
    return RecordTable(
        name="before_after",
        title="After an event against before it",
        text="AUROC of all tiles after the event against all before it, damaged or not, for there is no map: a score "
        "that finds damage alone cannot reach 1, and one that finds another light can. *Common* is the ground that "
        "both show, where a paired score of after given before stands against before given after. Intervals are "
        "bootstrapped over blocks of ground, for it is one event.",
        rows=rows,
    )


def daemon_table(scorer: SceneScorer, family: str, pre: SeenGround, post: SeenGround) -> RecordTable:
    """What the daemon would flag: each look alone, and the later one where the earlier is known."""
    first, second = _look(scorer, family, pre), _look(scorer, family, post)
    common = common_cells(pre, post)
    rows = [_decided("before", scorer, family, first, []), _decided("after", scorer, family, second, [])]
    if common:
        rows.append(_decided("after, given before", scorer, family, second.restrict(common), [first.restrict(common)]))
    return RecordTable(
        name="daemon",
        title="What the daemon would say",
        text="By the bundle's calibration and the default settings. Of the looks alone, few tiles should be flagged "
        "before the event.",
        rows=rows,
    )


def _look(scorer: SceneScorer, family: str, ground: SeenGround) -> Look:
    count = len(ground.cell_ids)
    parts = [ground.batch.subset(range(start, min(start + BATCH, count))) for start in range(0, count, BATCH)]
    return Look.join([scorer.look(part, family) for part in parts])


def _decided(name: str, scorer: SceneScorer, family: str, look: Look, earlier: Sequence[Look]) -> dict[str, Any]:
    looks = [EarlierLook(scene_id="before", sensing_time=_ANY_TIME, look=each) for each in earlier]
    reference = Reference.over(look.cell_ids, looks, reference_id="judged")
    verdict = detect(look, reference, scorer.calibration(family), DetectSettings())
    return {
        "look": name,
        "tiles": len(look),
        "flagged": int(verdict.flagged.sum()),
        "flagged_per_1000": rounded(1000 * float(verdict.flagged.mean())),
        "smallest_p_value": rounded(float(verdict.p_value.min()), 8),
    }


def _row(
    subject: Subject,
    ground: Ground,
    after: Float32Array,
    before: Float32Array,
    after_cells: Sequence[str],
    before_cells: Sequence[str],
    draws: int,
    seed: int,
) -> dict[str, Any]:
    auroc = low = high = None
    if len(after) and len(before):
        blocks, number = np.unique([_block(cell) for cell in (*after_cells, *before_cells)], return_inverse=True)
        counts = PairCounts.of(after, before, number[: len(after)], number[len(after) :], len(blocks))
        times = event_draws(np.random.default_rng((seed, 0x10B)), len(blocks), draws)
        bounds = interval(counts.drawn(times), len(blocks))
        auroc, low, high = counts.auroc(), bounds.low, bounds.high
    return {
        "scorer": subject.name,
        "kind": subject.kind,
        "ground": ground,
        "auroc": rounded(auroc),
        "auroc_low": rounded(low),
        "auroc_high": rounded(high),
        "median_after": rounded(float(np.median(after)), 8) if len(after) else None,
        "median_before": rounded(float(np.median(before)), 8) if len(before) else None,
        "nfe": subject.nfe,
        "n_pos": len(after),
        "n_neg": len(before),
    }


def _block(cell_id: str) -> str:
    cell = Cell.parse(cell_id)
    return cell.parent(max(cell.level - BLOCK_LEVELS, 0)).id
