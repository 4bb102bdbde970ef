"""The commands that judge encoders, on small folders and small networks, as a user gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from engine.vit import VisionTransformer, VitConfig
from training.align.msad import ProjectionHead
from training.cli.evaluate import evaluate
from training.evaluate.encoders.ablation_plan import Ablation
from training.running.runfolder import write_run

VIT = VitConfig(img_size=32, patch_size=16, dim=12, depth=2, heads=2)
SENSORS = ("sentinel-1", "sentinel-2", "sentinel-2-later", "aerial", "aerial-coarse")


def smooth(rng: np.random.Generator, side: int = 64) -> np.ndarray:
    coarse = rng.integers(60, 180, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """OMBRIA of blocks A, B and C, the last one without radar, and two aerial classes."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    ombria, classes = root / "ombria", root / "classes"
    for part in ("before", "after", "mask", "s1_before"):
        (ombria / part).mkdir(parents=True)
    rows = ["id,event"]
    for i in range(9):
        before, mask = smooth(rng), np.zeros((64, 64), bool)
        mask[:32, :32] = True
        after = before.copy()
        after[mask] = (10, 20, 90)
        Image.fromarray(before).save(ombria / "before" / f"{i:04}.webp", lossless=True)
        Image.fromarray(after).save(ombria / "after" / f"{i:04}.webp", lossless=True)
        Image.fromarray(mask).save(ombria / "mask" / f"{i:04}.png")
        if "ABC"[i % 3] != "C":
            Image.fromarray(smooth(rng)).save(ombria / "s1_before" / f"{i:04}.webp", lossless=True)
        rows.append(f"{i:04},test_block_{'ABC'[i % 3]}")
    (ombria / "index.csv").write_text("\n".join(rows) + "\n")
    for label in ("field", "town"):
        (classes / label).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(smooth(rng)).save(classes / label / f"{label}{i}.png")
    return ombria, classes


def trained(path: Path, name: str = "tiny", msad: str = "position", seed: int = 0) -> Path:
    """A finished run of a network that learned nothing."""
    torch.manual_seed(10 * len(msad) + seed)
    preset = {"name": name, "msad": msad, "vit": VIT.to_dict(), "held_out_events": ["B", "C"]}
    config = {"kind": "xstars", "preset": preset, "seed": seed, "steps": 1, "seconds": 1.0}
    write_run(path, config, VisionTransformer.from_config(VIT).state_dict())
    heads = {sensor: ProjectionHead(12, 8).state_dict() for sensor in SENSORS}
    save_file(
        {f"alignment.heads.{sensor}.{key}": value for sensor, state in heads.items() for key, value in state.items()},
        path / "checkpoint.safetensors",
    )
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "one")


def judged(tmp_path: Path, command: str, *options: object, draws: int = 20) -> dict[str, Any]:
    target = tmp_path / f"{command}.json"
    words = [command, *map(str, options), "--json", str(target), "--draws", str(draws), "--threads", "1"]
    result = CliRunner().invoke(evaluate, words)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(target.read_text())
    assert found["settings"]["preprocessing"]
    assert target.with_suffix(".md").read_text().startswith(f"# {found['title']}")
    pictures = list(tmp_path.glob(f"{command}-*.png"))
    assert [picture.read_bytes()[:8] for picture in pictures] == [b"\x89PNG\r\n\x1a\n"]
    return found


def test_retrieval_is_told_both_ways_beside_controls_and_chance(
    folders: tuple[Path, Path], run: Path, tmp_path: Path
) -> None:
    ombria, classes = folders
    found = judged(tmp_path, "retrieval", "--ombria", ombria, "--classes", classes, "--run", run, "--heads")
    assert "3 of 6 images have a Sentinel-1 view; block C has none." in found["notes"]
    radar = found["retrieval_0"]
    assert {row["subject"] for row in radar} == {
        "one", "one, heads", "random weights", "raw pixels", "mean colour", "chance"
    }  # fmt: skip
    assert {row["direction"] for row in radar} == {"sentinel-1 → sentinel-2", "sentinel-2 → sentinel-1"}
    # Three images of block B, four whole tiles of 32 px each.
    assert {row["gallery"] for row in radar} == {12}
    later = {(row["subject"], row["direction"]): row for row in found["retrieval_1"]}
    dry = later["raw pixels", "sentinel-2 → sentinel-2-later"]
    assert (dry["recall_at_1"], dry["gallery"], dry["units"]) == (1.0, 18, 2)
    assert later["chance", "sentinel-2 → sentinel-2-later"]["recall_at_1"] == pytest.approx(1 / 18, abs=1e-4)
    assert all("simulated" in row["task"] for row in found["retrieval_2"] + found["retrieval_3"])


def test_blocks_that_were_trained_on_are_refused(folders: tuple[Path, Path], run: Path, tmp_path: Path) -> None:
    words = ["retrieval", "--ombria", str(folders[0]), "--run", str(run), "--event", "A", "--json", str(tmp_path / "x")]
    result = CliRunner().invoke(evaluate, words)
    assert result.exit_code == 1
    assert "one was trained on event blocks A" in " ".join(result.output.split())


@pytest.mark.parametrize("command", ["knn", "linear"])
def test_classes_are_told_beside_controls(command: str, folders: tuple[Path, Path], run: Path, tmp_path: Path) -> None:
    more = ("--k", "3") if command == "knn" else ()
    found = judged(tmp_path, command, "--classes", folders[1], "--run", run, "--supervised-minutes", "0.01", *more)
    assert found["title"].endswith("(192 px WebP copy)")
    assert [row["subject"] for row in found["rows"] if row["embedding"] not in ("tokens",)] == [
        "one", "random weights", "raw pixels", "mean colour", "supervised from scratch, same size", "chance"
    ]  # fmt: skip
    assert {row["n"] for row in found["rows"]} == {10}
    assert found["rows"][-1]["accuracy"] == 0.5
    assert [row["n"] for row in found["classes"]] == [5, 5]


def test_fine_tuning_is_told_beside_the_network_from_scratch(
    folders: tuple[Path, Path], run: Path, tmp_path: Path
) -> None:
    found = judged(tmp_path, "finetune", "--classes", folders[1], "--run", run, "--epochs", 2, "--batch", 4)
    rows = {row["subject"]: row for row in found["rows"]}
    assert rows["one"]["epochs"] == rows["supervised from scratch, same size"]["epochs"] == 2.0
    assert rows["supervised from scratch, same size"]["kind"] == "supervised"
    assert rows["chance"]["epochs"] is None


def test_flood_maps_are_told_beside_pixels_and_the_index(folders: tuple[Path, Path], run: Path, tmp_path: Path) -> None:
    found = judged(tmp_path, "segment", "--ombria", folders[0], "--run", run, "--steps", 5)
    rows = {(row["subject"], row["head"]): row for row in found["rows"]}
    assert rows["pixels", "logistic regression"]["iou"] == pytest.approx(1.0, abs=0.01)
    assert rows["flooded everywhere", "–"]["iou"] == 0.25
    assert {head for subject, head in rows if subject == "one"} == {"linear", "upernet-light"}
    assert (found["data"]["train_events"], found["data"]["test_events"]) == ("A", "B, C")


def test_the_ablation_judges_finished_runs(folders: tuple[Path, Path], tmp_path: Path) -> None:
    ombria, classes = folders
    out = tmp_path / "runs"
    options = ("--ombria", ombria, "--classes", classes, "--out", out, "--seeds", 2)
    plan = Ablation(out=out, ombria=ombria, classes=classes, seeds=2)
    for each in plan.runs():
        trained(out / each.name, "ablation", each.msad, each.seed)
    shown = CliRunner().invoke(evaluate, ["ablation", *map(str, options), "--dry-run"])
    assert {each["state"] for each in json.loads(shown.output)["runs"]} == {"finished"}
    found = judged(tmp_path, "ablation", *options)
    names = [row["run"] for row in found["runs"]]
    assert names[: len(plan.runs())] == [each.name for each in plan.runs()]
    assert names[len(plan.runs()) :] == [
        "random weights", "raw pixels", "mean colour",
        *(f"{mode}-{seed}, heads" for seed in range(2) for mode in ("position", "dense")), "chance",
    ]  # fmt: skip
    assert {row["seeds"] for row in found["position_against_off"]} == {2}
    assert {row["measure"] for row in found["kept"]} >= {"kNN accuracy", "S1→S2 recall@1 (cls)"}
    assert any("`position`" in note for note in found["notes"])
    assert all(row["reached"] in (True, False) for row in found["aims"])
