"""``vigie evaluate ood``, end to end on folders that the test writes, and a little on real floods."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from tests import small_models
from tests.rasters import write_plain
from training.cli.evaluate import evaluate
from training.data.heldout import flood_tiles
from training.data.reflectance import PixelMeaning
from training.data.triples import TripleFolder
from training.evaluate.metrics import auroc
from training.evaluate.ood import Judging, RunSettings, Subject
from training.evaluate.protocol import TILE_PROTOCOLS
from training.evaluate.subjects import controls_of
from training.evaluate.table import Tables

SIDE, TILE = 35, small_models.TILE_PX
"""Four whole tiles an image, and a margin that belongs to none."""
BANDS = small_models.BANDS["sentinel-2"]
ROW_KEYS = [
    "scorer",
    "kind",
    "protocol",
    "auroc",
    "auroc_low",
    "auroc_high",
    "auroc_within",
    "aupr",
    "fpr95",
    "nfe",
    "ms_per_tile",
    "n_pos",
    "n_neg",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images of three events. The upper left tile is flooded, and dark in the first band; of image 4 the mask says
    so, but nothing is dark. The kinds of files differ."""
    root = tmp_path / "floods"
    rng = np.random.default_rng(0)
    for part in ("before", "after", "mask"):
        (root / part).mkdir(parents=True)
    for i in range(5):
        before = rng.integers(90, 160, (SIDE, SIDE, 3), dtype=np.uint8)
        after = rng.integers(90, 160, (SIDE, SIDE, 3), dtype=np.uint8)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[:TILE, :TILE] = 255
        if i < 4:
            after[:TILE, :TILE] = (5, 20, 30)
        if i % 2:
            write_plain(root / "before" / f"{i}.tif", before.transpose(2, 0, 1), crs=None, strips=True)
            write_plain(root / "mask" / f"{i}.tif", mask // 255, strips=True, nodata=0)
        else:
            Image.fromarray(before).save(root / "before" / f"{i}.png")
            Image.fromarray(mask > 0).save(root / "mask" / f"{i}.png")
        Image.fromarray(after).save(root / "after" / f"{i}.webp", lossless=True)
    (root / "index.csv").write_text("id,event\n0,Po\n1,Po\n2,Ebro\n3,Ebro\n4,Loire\n")
    return root


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "small"
    small_models.small_bundle(path)
    return path


def command(*arguments: str) -> Result:
    app = typer.Typer()
    app.add_typer(evaluate, name="evaluate")
    return CliRunner().invoke(app, ["evaluate", "ood", *arguments])


def arguments(folder: Path, bundle: Path, out: Path, *more: str) -> tuple[str, ...]:
    where = ("--data", str(folder), "--json", str(out), "--bundle", str(bundle))
    return (*where, "--runner", "torch", "--threads", "1", "--draws", "200", *more)


def test_a_folder_never_seen_is_judged_and_told(folder: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "judged.json"
    done = command(*arguments(folder, bundle, out, "--tiles", "12"))
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "judged-auroc.png",
        "judged-tiles.png",
        "judged.json",
        "judged.md",
    ]
    # json.loads would take NaN; the text must not hold one.
    assert "NaN" not in out.read_text()
    found = json.loads(out.read_text())
    assert found["data"] == {
        "digest": TripleFolder.open(folder).digest(),
        "images": 5,
        "events": 3,
        "tiles": 20,
        "flooded": 5,
        "dry": 15,
        "common": 12,
    }
    assert all(list(row) == ROW_KEYS for row in found["rows"] + found["common"])
    rows = {(row["scorer"], row["protocol"]): row for row in found["rows"]}
    dark = rows["dark-swir", "flooded-vs-dry"]
    # Of the flooded tiles 4 are dark and 1 is a tie with 15 that are not: (4 + 0.5) / 5.
    assert (dark["auroc"], dark["n_pos"], dark["n_neg"]) == (0.9, 5, 15)
    assert dark["auroc_within"] == 0.9
    # Drawn are Po and Ebro, which are perfect, or Loire alone, which is a tie.
    assert (dark["auroc_low"], dark["auroc_high"]) == (0.5, 1.0)
    assert rows["dark-swir", "after-vs-before"]["auroc"] == 0.9
    # The difference falls with the change: 4 of 5 are ahead of all 5 swapped ones, the fifth is one of five ties.
    assert rows["dark-swir-difference", "after-vs-before"]["auroc"] == pytest.approx((4 * 5 + 0.5 + 4) / 25)
    assert rows["odeed", "flooded-vs-dry"]["nfe"] == 6
    assert rows["odeed", "flooded-vs-dry"]["n_pos"] + rows["odeed", "flooded-vs-dry"]["n_neg"] == 12
    assert rows["odeed", "pixel"]["n_pos"] == 32 * rows["odeed", "flooded-vs-dry"]["n_pos"]
    assert ("png-size", "pixel") not in rows
    assert {"one-step", "odeed", "ravaen-xstars"} <= {each["scorer"] for each in found["differences"]}
    assert {each["beyond"] for each in found["knowledge"]} == {"energy", "water-index", "energy + water-index"}
    assert {each["event"] for each in found["per_event"]} == {"Po", "Ebro", "Loire"}
    text = (out.parent / "judged.md").read_text()
    assert "| dark-swir | *control* | 0.900 |" in text
    assert "`odeed`" in text
    for name in ("judged-auroc.png", "judged-tiles.png"):
        assert f"]({name})" in text
        with Image.open(out.parent / name) as picture:
            assert picture.width > 800


def test_the_same_seed_gives_the_same_figures(folder: Path, bundle: Path, tmp_path: Path) -> None:
    def figures(name: str, seed: str) -> list[dict[str, Any]]:
        out = tmp_path / f"{name}.json"
        assert command(*arguments(folder, bundle, out, "--tiles", "8", "--seed", seed)).exit_code == 0
        return [{**row, "ms_per_tile": 0} for row in json.loads(out.read_text())["rows"]]

    assert figures("one", "0") == figures("again", "0")
    assert figures("one", "0") != figures("other", "1")


def test_events_and_scorers_can_be_chosen(folder: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "judged.json"
    only = ("--only", "dark-swir", "--event", "Loire")
    assert command(*arguments(folder, bundle, out, *only)).exit_code == 0
    found = json.loads(out.read_text())
    assert {row["scorer"] for row in found["rows"]} == {"dark-swir"}
    assert found["data"]["images"] == 1
    # One event has a figure and no interval.
    assert (found["rows"][0]["auroc"], found["rows"][0]["auroc_low"]) == (0.5, None)
    assert "No scorer here is compared" in (tmp_path / "judged.md").read_text()
    wrong = command(*arguments(folder, bundle, out, "--only", "magic"))
    assert wrong.exit_code == 1
    assert "magic" in wrong.output


def test_a_dry_run_says_what_would_run_and_writes_nothing(folder: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "judged.json"
    done = command(*arguments(folder, bundle, out, "--dry-run"))
    assert done.exit_code == 0
    plan = json.loads(done.stdout)
    assert plan["images"] == 5
    assert {"scorer": "odeed", "kind": "unpaired", "nfe": 6, "tiles": "chosen"} in plan["scorers"]
    assert not out.parent.exists()


def test_what_is_wrong_with_a_folder_is_told_plainly(folder: Path, bundle: Path, tmp_path: Path) -> None:
    (folder / "mask" / "2.png").unlink()
    done = command(*arguments(folder, bundle, tmp_path / "judged.json"))
    assert done.exit_code == 1
    assert "mask/ lacks '2'" in " ".join(done.output.split())
    assert not (tmp_path / "judged.json").exists()


def test_paired_subjects_see_both_looks_and_swapped_ones_for_before(folder: Path) -> None:
    """The paired score is the mean of the look that it is asked about less the other's: its two sides mirror."""

    def change(now: np.ndarray, earlier: np.ndarray) -> tuple[np.ndarray, None]:
        return (earlier - now).mean(axis=(1, 2, 3)), None

    seen: list[int] = []

    def symmetric(now: np.ndarray, earlier: np.ndarray) -> tuple[np.ndarray, None]:
        seen.append(len(now))
        return np.abs(now - earlier).mean(axis=(1, 2, 3)), None

    subjects = [
        Subject(name="change", kind="paired", paired=change),
        Subject(name="distance", kind="paired", paired=symmetric, symmetric=True),
    ]
    outcome = Judging(
        folder=TripleFolder.open(folder),
        subjects=subjects,
        meaning=PixelMeaning(gains=(0.00267,) * 3),
        settings=RunSettings(tile_px=TILE),
        monotonic=time.monotonic,
        progress=lambda *_: None,
    ).run()
    flooded = outcome.ground.flooded
    np.testing.assert_allclose(outcome.scores["change"].earlier[flooded], -outcome.scores["change"].now[flooded])
    assert np.isnan(outcome.scores["change"].earlier[~flooded]).all()
    assert sum(seen) == 20
    rows = {(row.scorer, row.protocol): row for row in Tables.of(subjects, outcome, draws=50, seed=0).rows()}
    assert rows["distance", "after-vs-before"].auroc is None
    assert rows["distance", "flooded-vs-dry"].auroc is not None


@pytest.mark.real_data
def test_controls_on_real_floods_are_what_their_tiles_give(data_dir: Path) -> None:
    whole = TripleFolder.open(data_dir / "ombria")
    few = replace(whole, images=whole.images[30:36])
    gains = (0.00267,) * 3
    subjects = controls_of(BANDS, {})
    outcome = Judging(
        folder=few,
        subjects=subjects,
        meaning=PixelMeaning(gains=gains),
        settings=RunSettings(),
        monotonic=time.monotonic,
        progress=lambda *_: None,
    ).run()
    rows = {(row.scorer, row.protocol): row for row in Tables.of(subjects, outcome, draws=50, seed=0).rows()}
    tiles = flood_tiles(few.images, gains, 64)
    much, none = tiles.flooded >= 0.25, tiles.flooded == 0
    index = (tiles.after[:, 2] - tiles.after[:, 0]) / (tiles.after[:, 2] + tiles.after[:, 0])
    index = index.mean(axis=(1, 2))
    assert rows["water-index", TILE_PROTOCOLS[0]].auroc == pytest.approx(auroc(index[much], index[none]), abs=1e-4)
    dark_now, dark_before = ((look[:, 0] < 39.5 * 0.00267).mean(axis=(1, 2)) for look in (tiles.after, tiles.before))
    change = (dark_now - dark_before)[much]
    assert rows["dark-swir-difference", TILE_PROTOCOLS[1]].auroc == pytest.approx(auroc(change, -change), abs=1e-4)
