"""Streamed moments against numpy on everything at once, and the command that tells them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from tests.unit.test_training_sources import msc_france
from training.cli.train_statistics import ALL_PIXELS, ALL_SENSORS, statistics
from training.data import measuring
from training.data.measuring import Tally, tally
from training.data.msc_france import MOMENTS
from training.errors import TrainingDataInvalid


def told(*arguments: str) -> str:
    """Run ``vigie train statistics`` in this process; its standard output."""
    app = typer.Typer()
    app.command()(statistics)
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_merged_tallies_are_numpy_on_the_concatenation() -> None:
    rng = np.random.default_rng(0)
    # A large mean with little on it: a difference of sums would keep no digit of the deviation.
    parts = [1e6 + rng.normal(i, 1e-3, (n, 3)) for i, n in enumerate((1, 7, 400, 3000))]
    total = Tally.none(3)
    for part in parts:
        total = total.merged(Tally.of(part))
    joined = np.concatenate(parts)
    assert total.count == len(joined)
    np.testing.assert_allclose(total.moments().mean, joined.mean(axis=0), rtol=1e-14)
    # The mean itself is only known to 1e-10 here.
    np.testing.assert_allclose(total.moments().std, joined.std(axis=0), rtol=1e-8)
    with pytest.raises(TrainingDataInvalid, match="3 and 2 bands"):
        total.merged(Tally.none(2))
    with pytest.raises(TrainingDataInvalid, match="no pixel with ground"):
        Tally.none(3).moments()


def test_an_image_is_measured_in_blocks_without_its_missing_ground(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 40, 3), dtype=np.uint8)
    image[10:35, :] = 0
    whole = tally(image, (0.5, 1.0, 2.0))
    monkeypatch.setattr(measuring, "BLOCK_PX", 100)
    ground = image[image.max(axis=-1) > 0] * np.array([0.5, 1.0, 2.0])
    for found in (whole, tally(image, (0.5, 1.0, 2.0))):
        assert found.count == len(ground)
        np.testing.assert_allclose(found.moments().mean, ground.mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(found.moments().std, ground.std(axis=0), rtol=1e-13)


def test_the_command_measures_a_miniature_of_msc_france(tmp_path: Path) -> None:
    root = msc_france(tmp_path / "data", side=8)
    pixels = {
        sensor: np.concatenate(
            [
                np.asarray(Image.open(path)).reshape(-1, 3)
                for path in sorted((root / "MSC-France" / folder).rglob("*.png"))
            ]
        )
        / 255
        for sensor, folder in (("landsat", "Landsat"), ("sentinel", "Sentinel"), ("spot", "SPOT"))
    }
    assert told("--layout", "msc-france", "--data", str(root), "--json", str(tmp_path / "out.json")) == ""
    result = json.loads((tmp_path / "out.json").read_text())
    found = {(row["sensor"], row["band"]): row for row in result["moments"]}
    assert len(found) == 5 * 3
    means = {sensor: own.mean(axis=0) for sensor, own in pixels.items()}
    everything = np.concatenate(list(pixels.values()))
    # Sensors that count the same: repeat each one's pixels as often as the others have pixels.
    weights = np.concatenate([np.full(len(own), 1 / 3 / len(own)) for own in pixels.values()])
    for i, band in enumerate(("red", "green", "blue")):
        for sensor, own in pixels.items():
            row = found[sensor, band]
            np.testing.assert_allclose((row["mean"], row["std"]), (own[:, i].mean(), own[:, i].std()), rtol=1e-6)
            assert (row["stated_mean"], row["stated_std"]) == (MOMENTS[sensor].mean[i], MOMENTS[sensor].std[i])
        row = found[ALL_PIXELS, band]
        np.testing.assert_allclose(
            (row["mean"], row["std"]), (everything[:, i].mean(), everything[:, i].std()), rtol=1e-6
        )
        row = found[ALL_SENSORS, band]
        mean = np.average(everything[:, i], weights=weights)
        deviation = np.sqrt(np.average((everything[:, i] - mean) ** 2, weights=weights))
        np.testing.assert_allclose((row["mean"], row["std"]), (mean, deviation), rtol=1e-6)
        np.testing.assert_allclose(mean, np.mean([own[i] for own in means.values()]))
    assert [(row["sensor"], row["images"], row["side_to_coarsest"]) for row in result["sensors"]] == [
        ("landsat", 6, 1.0),
        ("sentinel", 6, 3.0),
        ("spot", 6, 157 / 8),
    ]
    written = (tmp_path / "out.md").read_text()
    assert "vigie train statistics --layout msc-france" in written
    assert "| spot | red | " in written


def test_other_layouts_are_measured_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 255, (2, 16, 16, 3), dtype=np.uint8)
    (tmp_path / "town").mkdir()
    for i, image in enumerate(pixels):
        # Of two images the first is trained on, and measured.
        Image.fromarray(image).save(tmp_path / "town" / f"{i}.png")
    result = json.loads(told("--layout", "classes", "--data", str(tmp_path)))
    assert [(row["sensor"], row["band"]) for row in result["moments"]] == [("aerial", 1), ("aerial", 2), ("aerial", 3)]
    np.testing.assert_allclose([row["mean"] for row in result["moments"]], pixels[0].mean(axis=(0, 1)) / 255, rtol=1e-6)
