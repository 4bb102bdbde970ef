"""The training room's commands, end to end on miniature folders that the test writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from engine.bundle import ModelBundle
from engine.unet import UnetConfig
from engine.vit import VitConfig
from training import presets
from training.cli.export import export
from training.cli.train import train
from training.data.ombria import OmbriaFolder
from training.running.loop import run

EVENTS = ("A", "B")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """An OMBRIA folder of two events, with floods, and a class folder."""
    rng = np.random.default_rng(0)
    ombria, classes = tmp_path / "ombria", tmp_path / "classes"
    for part in ("before", "after", "mask", "s1_before"):
        (ombria / part).mkdir(parents=True)
    rows = ["id,event"]
    for i in range(6):
        before = smooth(rng, 64)
        after = before.copy()
        mask = np.zeros((64, 64), bool)
        mask[:32] = i % 2 == 0
        after[mask] = (10, 20, 30)
        Image.fromarray(before).save(ombria / "before" / f"{i:04}.webp", lossless=True)
        Image.fromarray(after).save(ombria / "after" / f"{i:04}.webp", lossless=True)
        Image.fromarray(mask).save(ombria / "mask" / f"{i:04}.png")
        Image.fromarray(smooth(rng, 64)).save(ombria / "s1_before" / f"{i:04}.webp", lossless=True)
        rows.append(f"{i:04},test_block_{EVENTS[i % 3 == 0]}")
    (ombria / "index.csv").write_text("\n".join(rows) + "\n")
    for label in ("field", "town"):
        (classes / label).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(smooth(rng, 64)).save(classes / label / f"{label}{i}.png")
    return ombria, classes


def smooth(rng: np.random.Generator, side: int) -> np.ndarray:
    """An 8-bit image of blotches, nowhere 0."""
    coarse = rng.integers(60, 180, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


@pytest.fixture(autouse=True)
def small_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Presets that train in a blink."""
    small = {
        "tile_px": 32,
        "crop_px": 16,
        "batch": 8,
        "unet": UnetConfig(in_chans=3, width=8, mults=(1, 2), blocks=1, attention=False),
    }
    denoisers = {
        "sentinel-2": replace(presets.DENOISERS["sentinel-2"], held_out_events=("B",), odeed_steps=2, **small),
        "aerial": replace(presets.DENOISERS["aerial"], sides_px=(64, 48), odeed_steps=2, **small),
    }
    encoder = replace(
        presets.ENCODERS["tiny"],
        vit=VitConfig(img_size=32, patch_size=8, dim=24, depth=2, heads=2, drop_path=0.1),
        tile_px=32,
        source_px=48,
        local_px=16,
        local_crops=1,
        head_hidden=16,
        bottleneck=8,
        prototypes=32,
        msad_dim=16,
        batch=4,
        pairs=4,
        held_out_events=("B",),
    )
    monkeypatch.setattr(presets, "DENOISERS", denoisers)
    monkeypatch.setattr(presets, "ENCODERS", {"tiny": encoder})


def command(*arguments: str) -> str:
    """Run ``vigie train ...`` or ``vigie export ...`` in this process; its standard output."""
    app = typer.Typer()
    app.add_typer(train, name="train")
    app.command("export")(export)
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_three_steps_and_an_export_make_a_bundle_that_loads(folders: tuple[Path, Path], tmp_path: Path) -> None:
    ombria, classes = map(str, folders)
    out = tmp_path / "runs"
    settings = ("--steps", "3", "--threads", "1")
    command("train", "denoiser", "--preset", "sentinel-2", "--data", ombria, "--out", f"{out}/s2", *settings)
    command("train", "denoiser", "--preset", "aerial", "--data", classes, "--out", f"{out}/aerial", *settings)
    command("train", "xstars", "--ombria", ombria, "--classes", classes, "--out", f"{out}/enc", *settings)
    denoisers = ("--denoiser", f"{out}/s2", "--data", ombria, "--denoiser", f"{out}/aerial", "--data", classes)
    sizes = ("--tiles", "20", "--pairs", "20", "--judged", "4")
    where = ("--out", str(tmp_path), "--threads", "1", "--runner", "torch")
    arguments = ("export", "--name", "tiny", "--encoder", f"{out}/enc", *denoisers, *sizes, *where)
    command(*arguments)

    bundle = ModelBundle.load(tmp_path / "tiny")
    assert set(bundle.families) == {"sentinel-2", "aerial"}
    satellite, aerial = bundle.family("sentinel-2"), bundle.family("aerial")
    # Event B has two images of four tiles each: all are before-tiles, six are dry after.
    assert {name: len(values) for name, values in satellite.calibration.items()} == {
        "odeed": 8,
        "pair_odeed_a": 6,
        "pair_odeed_b": 6,
        "pair_cls_distance": 6,
        "pair_water_a": 6,
        "pair_water_b": 6,
    }
    assert len(aerial.calibration["pair_odeed_a"]) == 20
    assert "pair_water_a" not in aerial.calibration
    # A dry pair is the same image here: nothing changed.
    np.testing.assert_allclose(satellite.calibration["pair_odeed_a"], satellite.calibration["pair_odeed_b"], rtol=1e-3)
    np.testing.assert_allclose(satellite.calibration["pair_cls_distance"], 0, atol=1e-5)
    config = json.loads((out / "s2" / "config.json").read_text())
    assert satellite.sigma_data == config["sigma_data"]
    assert satellite.odeed.sigma_max == pytest.approx(
        presets.DENOISERS["sentinel-2"].odeed_ratio * config["sigma_data"]
    )
    assert bundle.manifest.provenance["denoisers"]["sentinel-2"]["data"] == {
        "ombria": OmbriaFolder.open(folders[0]).digest()
    }
    card = (tmp_path / "tiny" / "MODEL_CARD.md").read_text()
    assert "vigie train denoiser --preset sentinel-2" in card
    assert "*simulated*" in card

    command(*arguments, "--overwrite")
    assert ModelBundle.load(tmp_path / "tiny").model_hash == bundle.model_hash


def test_the_same_seed_gives_the_same_weights(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for kind in ("denoiser", "xstars"):
        weights = {}
        for name, seed in (("one", "5"), ("again", "5"), ("other", "6")):
            out = tmp_path / kind / name
            source = ("--data", str(folders[0])) if kind == "denoiser" else ("--ombria", str(folders[0]))
            command("train", kind, *source, "--out", str(out), "--steps", "2", "--seed", seed, "--threads", "1")
            weights[name] = (out / "weights.safetensors").read_bytes()
        assert weights["one"] == weights["again"]
        assert weights["one"] != weights["other"]


@pytest.mark.parametrize("kind", ["denoiser", "xstars"])
def test_a_killed_run_goes_on_exactly(
    kind: str, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after two of four steps, then started again: the weights of a run that was left alone."""
    source = ("--data", str(folders[0])) if kind == "denoiser" else ("--ombria", str(folders[0]))
    common = ("train", kind, *source, "--steps", "4", "--threads", "1")
    command(*common, "--out", str(tmp_path / "whole"))

    def killed_after_two(trainee, folder, steps, *, clock, show, checkpoint_every_s=0.0):
        def show_or_die(progress) -> None:
            show(progress)
            if progress.step == 3:
                raise KeyboardInterrupt

        return run(trainee, folder, steps, clock=clock, show=show_or_die, checkpoint_every_s=0.0)

    with monkeypatch.context() as patched:
        patched.setattr("training.cli.train.run", killed_after_two)
        with pytest.raises((KeyboardInterrupt, AssertionError, SystemExit)):
            command(*common, "--out", str(tmp_path / "killed"))
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    command(*common, "--out", str(tmp_path / "killed"))
    whole, resumed = (tmp_path / name / "weights.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == resumed.read_bytes()


def test_dry_run_prints_the_configuration_and_writes_nothing(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "runs"
    text = command("train", "denoiser", "--data", str(folders[0]), "--out", str(out), "--steps", "3", "--dry-run")
    shown = json.loads(text)
    assert shown["kind"] == "denoiser"
    assert shown["steps"] == 3
    assert shown["data"]["ombria"] == OmbriaFolder.open(folders[0]).digest()
    assert not out.exists()


def test_a_wrong_folder_is_told_plainly(tmp_path: Path) -> None:
    app = typer.Typer()
    app.add_typer(train, name="train")
    result = CliRunner().invoke(
        app, ["train", "denoiser", "--data", str(tmp_path), "--out", str(tmp_path / "o"), "--steps", "1"]
    )
    assert result.exit_code == 1
    assert "no index.csv" in " ".join(result.output.split())
