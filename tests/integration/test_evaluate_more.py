"""The further judging commands, end to end on miniature folders and bundles that the test writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from PIL import Image
from typer.testing import CliRunner

from engine.unet import UnetConfig
from tests.rasters import write_plain
from tests.small_models import encoder, parts, small_bundle
from tests.unit.test_evaluate_spacenet8 import GERMANY, LOUISIANA, area
from training import presets
from training.cli.evaluate import evaluate
from training.cli.train import train
from training.evaluate.anomaly import USUAL

SIDE = 48


def smooth(rng: np.random.Generator, side: int) -> np.ndarray:
    """An 8-bit image of blotches, nowhere 0."""
    coarse = rng.integers(60, 180, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


@pytest.fixture
def triples(tmp_path: Path) -> Path:
    """6 images of 3 events, 9 tiles of 16 px each, a third of every image flooded."""
    rng = np.random.default_rng(0)
    root = tmp_path / "floods"
    for part in ("before", "after", "mask"):
        (root / part).mkdir(parents=True)
    rows = ["id,event"]
    for i in range(6):
        before = smooth(rng, SIDE)
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        mask[:16] = True
        after = before.copy()
        after[mask] = (8, 20, 60)
        for part, image in (("before", before), ("after", after), ("mask", mask)):
            Image.fromarray(image).save(root / part / f"{i}.png")
        rows.append(f"{i},{'abc'[i % 3]}")
    (root / "index.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Three classes of 4 images."""
    rng = np.random.default_rng(1)
    for label in ("field", "harbour", "town"):
        (tmp_path / "classes" / label).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(smooth(rng, 64)).save(tmp_path / "classes" / label / f"{label}{i}.png")
    return tmp_path / "classes"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """With a flood model that asks for a high water index, now and above the place's usual one."""
    weights = np.asarray([10, 0, 0, 0, 0, -3], dtype=np.float32)
    shared = encoder()
    pairs = np.linspace(0.1, 1, 60, dtype=np.float32)
    normal = {"odeed": pairs, "pair_odeed_a": pairs, "pair_odeed_b": pairs[::-1].copy(), "pair_cls_distance": pairs}
    small_bundle(
        tmp_path / "bundle",
        parts("sentinel-2", encoder=shared, calibration={"flood_now": weights, "flood_gain": weights}),
        parts("aerial", encoder=shared, calibration=normal),
    )
    return tmp_path / "bundle"


def ran(*words: object) -> str:
    result = CliRunner().invoke(evaluate, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_calibration(triples: Path, classes: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "calibration.json"
    ran(
        *("calibration", "--data", triples, "--classes", classes, "--bundle", bundle, "--json", out, "--images", 6),
        *("--tiles", 24, "--splits", 3, "--draws", 20, "--threads", 1, "--runner", "torch"),
        "--refit",
    )
    found: dict[str, Any] = json.loads(out.read_text())
    assert found["data"]["sentinel-2_tiles"] == found["data"]["sentinel-2_flood_tiles"] == 54
    assert found["data"]["aerial_tiles"] == 24
    assert {(row["family"], row["track"]) for row in found["events"]} == {
        ("sentinel-2", "anomaly"),
        ("sentinel-2", "flood"),
        ("sentinel-2", "either"),
        ("aerial", "anomaly"),
    }
    floods = [row for row in found["events"] if row["track"] == "flood" and row["basis"] == "pair"]
    # The flood of each event is known by the model that was fitted on the others.
    assert {row["recall"] for row in floods} == {1.0}
    assert {row["tiles"] for row in floods} == {36}
    assert any("fitted anew" in note for note in found["notes"])
    assert any("exchangeability fails" in note for note in found["notes"])
    text = out.with_suffix(".md").read_text()
    assert "## Events, or classes, that nothing was calibrated on" in text
    assert sorted(path.name for path in out.parent.iterdir()) == ["calibration.json", "calibration.md"]


def test_calibration_needs_something_to_judge_on(bundle: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(evaluate, ["calibration", "--bundle", str(bundle), "--json", str(tmp_path / "x.json")])
    assert result.exit_code == 1
    assert "give --data, --classes, or both" in " ".join(result.stderr.split())


@pytest.mark.parametrize("basis", ["single", "pair"])
def test_cascade(triples: Path, bundle: Path, tmp_path: Path, basis: str) -> None:
    out = tmp_path / "out" / "cascade.json"
    ran(
        *("cascade", "--data", triples, "--bundle", bundle, "--json", out, "--basis", basis, "--threads", 1),
        *("--per-1000", 200, "--runner", "torch"),
    )
    found: dict[str, Any] = json.loads(out.read_text())
    rows = {row["cheap"]: row for row in found["cascades"]}
    assert set(rows) == {"flood-log-odds", "energy", "water-index", "mean-colour"}
    flood = rows["flood-log-odds"]
    assert (flood["tiles"], flood["positives"]) == (54, 18)
    # The flooded third of each image has one colour, which the bundle's flood model knows; alone it is one score.
    assert flood["full_recall"] == 1.0
    assert flood["kept"] == 1.0 if basis == "single" else flood["kept"] > 0.5
    assert any("is the bundle's" in note for note in found["notes"])
    costs = found["settings"]
    want = costs["cheap_ms_per_tile"] / costs["full_ms_per_tile"] + flood["passed"]
    assert flood["cost"] == pytest.approx(want, abs=1e-3)
    assert len(found["per_event"]) == 4 * 3
    with Image.open(out.with_name("cascade-curve.png")) as picture:
        assert picture.format == "PNG"
    assert "cascade-curve.png" in out.with_suffix(".md").read_text()


def small_aerial(monkeypatch: pytest.MonkeyPatch) -> None:
    """An aerial preset that trains in a blink and fits the small bundle."""
    unet = UnetConfig(in_chans=3, width=8, mults=(1, 2), blocks=1, attention=False)
    small = replace(
        presets.DENOISERS["aerial"], tile_px=16, crop_px=16, batch=4, unet=unet, sides_px=(64, 48), odeed_steps=2
    )
    monkeypatch.setattr(presets, "DENOISERS", {**presets.DENOISERS, "aerial": small})


def joplin(root: Path) -> Path:
    for part, level in (("pre", 60), ("post", 120)):
        (root / part).mkdir(parents=True)
        pixels = np.random.default_rng(level).integers(level, level + 40, (3, 64, 64), dtype=np.uint8)
        where = Affine(0.625, 0, 320 * 10.0, 0, -0.625, 6400 * 10.0)
        write_plain(root / part / "a.tif", pixels, crs="EPSG:32615", transform=where)
    return root


def test_anomaly(classes: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_aerial(monkeypatch)
    run, out = tmp_path / "runs" / "new", tmp_path / "out" / "anomaly.json"
    trained = CliRunner().invoke(
        train,
        f"denoiser --preset aerial --data {classes} --out {run} --steps 2 --threads 1 --hold-out-classes harbour "
        "--no-pictures",
        catch_exceptions=False,
    )
    assert trained.exit_code == 0, trained.output
    ran(
        *("anomaly", "--classes", classes, "--joplin", joplin(tmp_path / "joplin"), "--run", run, "--bundle", bundle),
        *("--json", out, "--images", 2, "--side", 32, "--normal", 20, "--draws", 20, "--threads", 1),
        *("--runner", "torch"),
    )
    found: dict[str, Any] = json.loads(out.read_text())
    rows = {row["scorer"]: row for row in found["classes"]}
    assert set(rows) == set(USUAL)
    assert {(row["n_pos"], row["n_neg"], row["auroc_low"]) for row in rows.values()} == {(2, 4, None)}
    assert {row["class"] for row in found["per_class"]} == {"harbour"}
    ground = {(row["scorer"], row["ground"]): row for row in found["before_after"]}
    assert ground["energy", "all"]["n_pos"] == 16
    # Brighter tiles of mean below one half have less energy: every pair is lost.
    assert ground["energy", "all"]["auroc"] == 0.0
    assert ground["odeed-change", "common"]["n_neg"] == 16
    assert ground["ravaen-xstars", "common"]["auroc"] is None
    assert [row["tiles"] for row in found["daemon"]] == [16, 16, 16]
    assert any("trained without harbour" in note for note in found["notes"])


def test_anomaly_says_what_makes_a_run(
    classes: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_aerial(monkeypatch)
    words = ["anomaly", "--classes", str(classes), "--bundle", str(bundle), "--json", str(tmp_path / "x.json")]
    result = CliRunner().invoke(evaluate, words)
    assert result.exit_code == 1
    assert "vigie train denoiser --preset aerial --hold-out-classes" in " ".join(result.stderr.split())


def test_spacenet8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_aerial(monkeypatch)
    area(tmp_path / "data", GERMANY, 8, 100)
    area(tmp_path / "data", LOUISIANA, 2, 150)
    (tmp_path / "preset.toml").write_text('layout = "spacenet8"\nheld_out_share = 0.5\nsides_px = []\n')
    run, out = tmp_path / "run", tmp_path / "out" / "spacenet8.json"
    trained = CliRunner().invoke(
        train,
        f"denoiser --preset aerial --preset-file {tmp_path}/preset.toml --data {tmp_path}/data/{GERMANY} --out {run} "
        "--steps 2 --threads 1 --no-pictures",
        catch_exceptions=False,
    )
    assert trained.exit_code == 0, trained.output
    ran(
        *("spacenet8", "--data", tmp_path / "data", "--run", run, "--json", out, "--trained-on", GERMANY),
        *("--draws", 20, "--threads", 1, "--runner", "torch"),
    )
    found: dict[str, Any] = json.loads(out.read_text())
    rows = {(row["experiment"], row["scorer"]): row for row in found["experiments"]}
    names = {"energy", "mean-colour", "sharpness", "png-size", "diffusion-loss", "one-step", "odeed"}
    assert {scorer for _, scorer in rows} == names
    kept = found["data"]["held_out_places"]
    assert rows["geographic shift", "odeed"]["n_pos"] == 8
    assert rows["flooded/non-flooded", "odeed"]["n_neg"] == kept
    assert rows["pre/post", "odeed"]["nfe"] == 4
    # A dark quarter has more energy than anything near grey.
    assert rows["flooded/non-flooded", "energy"]["auroc"] == 1.0
    assert found["settings"]["held_out_share"] == 0.5
