"""The training room's commands, end to end on miniature folders that the test writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from engine.bundle import ModelBundle
from engine.unet import UnetConfig
from engine.vit import VitConfig
from training import encoder_presets, presets
from training.cli.export import export
from training.cli.train import train
from training.data.ombria import OmbriaFolder
from training.running.loop import run

EVENTS = ("A", "B")
SHIPPED = dict(presets.DENOISERS)


def denoiser_preset_as_shipped(name: str) -> presets.DenoiserPreset:
    """A preset before this module's fixtures made it small."""
    return SHIPPED[name]


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
        encoder_presets.ENCODERS["tiny"],
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
    monkeypatch.setattr(encoder_presets, "ENCODERS", {"tiny": encoder})


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
    sizes = ("--tiles", "20", "--pairs", "20")
    where = ("--out", str(tmp_path), "--threads", "1", "--runner", "torch")
    arguments = ("export", "--name", "tiny", "--encoder", f"{out}/enc", *denoisers, *sizes, *where)
    command(*arguments)

    bundle = ModelBundle.load(tmp_path / "tiny")
    assert set(bundle.families) == {"sentinel-2", "aerial"}
    satellite, aerial = bundle.family("sentinel-2"), bundle.family("aerial")
    # Event B has two images of four tiles each: all are before-tiles, six are dry after.
    lengths = {name: len(values) for name, values in satellite.calibration.items() if not name.startswith("normal_")}
    assert lengths["odeed"] == 8
    assert {name: lengths[name] for name in lengths if name.startswith("pair_")} == {
        "pair_odeed_a": 6,
        "pair_odeed_b": 6,
        "pair_cls_distance": 6,
        "pair_water_a": 6,
        "pair_water_b": 6,
        "pair_spectrum_a": 6,
        "pair_spectrum_b": 6,
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


@pytest.mark.parametrize("kind", ["denoiser", "dropout", "xstars"])
def test_a_killed_run_goes_on_exactly(
    kind: str, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after two of four steps, then started again: the weights of a run that was left alone."""
    (tmp_path / "preset.toml").write_text("[unet]\ndropout = 0.3\n")
    common = {
        "denoiser": ("train", "denoiser", "--data", str(folders[0])),
        "dropout": ("train", "denoiser", "--data", str(folders[0]), "--preset-file", str(tmp_path / "preset.toml")),
        "xstars": ("train", "xstars", "--ombria", str(folders[0])),
    }[kind]
    common = (*common, "--steps", "4", "--threads", "1")
    command(*common, "--out", str(tmp_path / "whole"))

    def killed_after_two(trainee, folder, steps, *, show, **others):
        def show_or_die(progress) -> None:
            show(progress)
            if progress.step == 3:
                raise KeyboardInterrupt

        return run(trainee, folder, steps, show=show_or_die, **{**others, "checkpoint_every_s": 0.0})

    with monkeypatch.context() as patched:
        patched.setattr("training.cli.runs.run", killed_after_two)
        with pytest.raises((KeyboardInterrupt, AssertionError, SystemExit)):
            command(*common, "--out", str(tmp_path / "killed"))
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    before = [line["step"] for line in progress_of(tmp_path / "killed")]
    command(*common, "--out", str(tmp_path / "killed"))
    whole, resumed = (tmp_path / name / "weights.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == resumed.read_bytes()
    # Steps before the checkpoint keep their lines; the third, done twice, is told once.
    steps = [line["step"] for line in progress_of(tmp_path / "killed")]
    assert [step for step in before if step < 3] == [step for step in steps if step < 3]
    assert steps == sorted(set(steps))
    assert steps[-1] == 4


def progress_of(run_folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_folder / "progress.jsonl").read_text().splitlines()]


def refused(*arguments: str) -> str:
    """Run ``vigie train ...``, which must end with an error; what it says."""
    app = typer.Typer()
    app.add_typer(train, name="train")
    result = CliRunner().invoke(app, ["train", *arguments], catch_exceptions=False)
    assert result.exit_code != 0, result.output
    return " ".join(result.output.split())


def test_a_run_of_other_settings_is_not_continued(folders: tuple[Path, Path], tmp_path: Path) -> None:
    common = ("denoiser", "--data", str(folders[0]), "--out", str(tmp_path / "run"), "--steps", "2", "--threads", "1")
    command("train", *common)
    told = refused(*common, "--seed", "7", "--batch", "4")
    assert "preset.batch (8 there, 4 here), seed (0 there, 7 here)" in told
    assert "another --out" in told


def test_a_run_leaves_configuration_progress_and_pictures(folders: tuple[Path, Path], tmp_path: Path) -> None:
    common = ("train", "denoiser", "--data", str(folders[0]), "--steps", "3", "--threads", "1")
    command(*common, "--out", str(tmp_path / "run"))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoint.safetensors",
        "config.json",
        "progress.jsonl",
        "reconstructions.png",
        "samples.png",
        "weights.safetensors",
    ]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["processes"], config["device"], config["precision"], config["gpu"]) == (1, "cpu", "fp32", None)
    assert config["numpy"] == np.__version__
    last = progress_of(tmp_path / "run")[-1]
    assert (last["step"], last["steps"], last["eta_s"]) == (3, 3, 0.0)
    assert last["losses"] == config["last_losses"]
    # Asked for again, a finished run changes nothing.
    command(*common, "--out", str(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == config
    command(*common, "--out", str(tmp_path / "plain"), "--no-pictures")
    assert not list((tmp_path / "plain").glob("*.png"))
    # Drawing takes nothing from what training draws.
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("run", "plain")]
    assert weights[0] == weights[1]


def test_a_preset_file_changes_fields_by_name(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({"lr": 1, "steps": 2, "unet": {"width": 12, "mults": [1, 1]}}))
    common = ("denoiser", "--data", str(folders[0]), "--out", str(tmp_path / "run"), "--preset-file")
    shown = json.loads(command("train", *common, str(tmp_path / "mine.json"), "--dry-run"))
    assert (shown["preset"]["lr"], shown["preset"]["unet"]["width"], shown["steps"]) == (1.0, 12, 2)
    (tmp_path / "wrong.toml").write_text("learning_rate = 1.0\n")
    assert "no field learning_rate" in refused(*common, str(tmp_path / "wrong.toml"))


def test_a_folder_and_two_families_at_once_train_too(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ombria, classes = map(str, folders)
    rest = ("--steps", "2", "--threads", "1", "--no-pictures")
    command(
        "train", "denoiser", "--preset", "aerial", "--layout", "folder", "--data", classes, "--out",
        str(tmp_path / "folder"), *rest,
    )  # fmt: skip
    small = {"tile_px": 32, "crop_px": 16, "batch": 8}
    unet = UnetConfig(in_chans=3, cond_chans=2, width=8, mults=(1, 2), blocks=1, attention=False)
    joint = replace(denoiser_preset_as_shipped("joint"), unet=unet, **small)
    monkeypatch.setitem(presets.DENOISERS, "joint", joint)
    both = ("--data", ombria, "--data", classes)
    command("train", "denoiser", "--preset", "joint", *both, "--out", str(tmp_path / "joint"), *rest)
    config = json.loads((tmp_path / "joint" / "config.json").read_text())
    assert set(config["data"]) == {"sentinel-2", "aerial"}
    told = refused("denoiser", "--preset", "joint", "--data", ombria, "--out", str(tmp_path / "x"), "--steps", "1")
    assert "takes one for each of sentinel-2, aerial" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--precision", "fp8"), "there are fp32 and bf16"),
        (("--device", "tpu"), "there are cpu, cuda and auto"),
        ((), "give either --steps or --minutes"),
        (("--steps", "1", "--minutes", "1"), "give either --steps or --minutes"),
    ],
)
def test_options_that_cannot_be_met_are_refused(
    options: tuple[str, ...], told: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    assert told in refused("denoiser", "--data", str(folders[0]), "--out", str(tmp_path / "run"), *options)
    assert not (tmp_path / "run").exists()


def test_an_encoder_is_adapted_to_another_sensor(folders: tuple[Path, Path], tmp_path: Path) -> None:
    ombria, classes = map(str, folders)
    rest = ("--steps", "2", "--threads", "1")
    command("train", "xstars", "--classes", classes, "--out", str(tmp_path / "aerial"), *rest)
    adapt = ("--ombria", ombria, "--from", str(tmp_path / "aerial"), "--adapt-to", "ombria", "--msad", "dense")
    command("train", "xstars", *adapt, "--out", str(tmp_path / "adapted"), *rest)
    config = json.loads((tmp_path / "adapted" / "config.json").read_text())
    assert config["start"] | {"weights": ""} == {"adapt_to": "sentinel-2", "input": "ours", "weights": ""}
    assert config["preset"]["msad"] == "dense"
    last = progress_of(tmp_path / "adapted")[-1]
    assert set(last["losses"]) == {"loss", "dino", "msad"}
    assert set(last["measures"]) == {"msad_accuracy", "class_accuracy"}
    assert {path.name for path in (tmp_path / "adapted").glob("*.png")} == {"attention.png", "neighbours.png"}
    # The same run folder with other weights to start from is another run.
    other = ("--ombria", ombria, "--from", str(tmp_path / "adapted"), "--adapt-to", "ombria", "--msad", "dense")
    assert "start.weights" in refused("xstars", *other, "--out", str(tmp_path / "adapted"), *rest)
    out = ("--out", str(tmp_path / "x"), *rest)
    assert "--from needs --adapt-to" in refused("xstars", *adapt[:4], *out)
    assert "go with --from" in refused("xstars", "--ombria", ombria, "--adapt-to", "ombria", *out)


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
