"""Folders, tiles and pairs: shapes, units, and what must never slip into training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.classfolder import ClassFolder
from training.data.heldout import SecondLook, flood_tiles, windows
from training.data.ombria import OmbriaFolder
from training.data.pairs import ColocatedImages, SimulatedCoarse
from training.data.pool import Augmentation, ImagePool, area_downsample, augment, turn
from training.data.quantiles import match_quantiles
from training.errors import TrainingDataInvalid
from training.presets import HELD_OUT_EVENTS, denoiser_preset


def ombria_folder(root: Path, *, flooded_rows: int = 0) -> OmbriaFolder:
    """Two images of 8 px, of events A and B; the upper rows of the mask are flooded."""
    for part in ("before", "after", "mask"):
        (root / part).mkdir(parents=True)
    for name in ("1", "2"):
        for part, value in (("before", 100), ("after", 50)):
            pixels = np.full((8, 8, 3), value, np.uint8)
            pixels[:, 7] = 0 if name == "2" else value
            Image.fromarray(pixels).save(root / part / f"{name}.webp", lossless=True)
        mask = np.zeros((8, 8), bool)
        mask[:flooded_rows] = True
        Image.fromarray(mask).save(root / "mask" / f"{name}.png")
    (root / "index.csv").write_text("id,event\n1,place_block_A\n2,place_block_B\n")
    return OmbriaFolder.open(root)


def test_ombria_folder_is_split_by_event(tmp_path: Path) -> None:
    folder = ombria_folder(tmp_path)
    assert folder.events == ("A", "B")
    assert [image.id for image in folder.of_events(["B"])] == ["2"]
    with pytest.raises(TrainingDataInvalid, match="'Z'"):
        folder.of_events(["Z"])


def test_a_listed_file_that_is_missing_is_named(tmp_path: Path) -> None:
    ombria_folder(tmp_path)
    (tmp_path / "mask" / "2.png").unlink()
    with pytest.raises(TrainingDataInvalid, match=r"2\.png is not there"):
        OmbriaFolder.open(tmp_path)


def test_the_digest_sees_contents_and_not_places(tmp_path: Path) -> None:
    one, two = ombria_folder(tmp_path / "one"), ombria_folder(tmp_path / "two")
    assert one.digest() == two.digest()
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "two" / "mask" / "1.png")
    assert one.digest() != OmbriaFolder.open(tmp_path / "two").digest()


def test_class_halves_share_no_image_and_keep_every_class(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(3):
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / label / f"{i}.png")
    train, held_out = ClassFolder.open(tmp_path).halves()
    assert {image.label for image in train} == {image.label for image in held_out} == {"a", "b"}
    assert not {image.path for image in train} & {image.path for image in held_out}
    assert len(train) + len(held_out) == 6


def test_flood_tiles_leave_out_missing_ground_and_measure_the_flood(tmp_path: Path) -> None:
    folder = ombria_folder(tmp_path, flooded_rows=2)
    tiles = flood_tiles(folder.images, (0.001, 0.002, 0.004), 4)
    # Four tiles of the first image; the second image's right half touches missing ground.
    assert tiles.events == ("A",) * 4 + ("B",) * 2
    np.testing.assert_allclose(tiles.flooded, [0.5, 0.5, 0, 0, 0.5, 0])
    np.testing.assert_allclose(tiles.before[0, :, 0, 0], [0.1, 0.2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(tiles.after[0, :, 0, 0], [0.05, 0.1, 0.2], rtol=1e-6)


def test_windows_cover_whole_tiles_once() -> None:
    seen = np.zeros((10, 9), int)
    for window in windows((10, 9), 4):
        seen[window] += 1
    assert (seen[:8, :8] == 1).all()
    assert seen.sum() == 64


def test_pool_tiles_are_reflectance_mapped_to_minus_one_to_one() -> None:
    image = np.zeros((10, 12, 3), np.uint8)
    image[:] = (10, 100, 255)
    tiles = ImagePool(images=[image], gains=(0.002, 0.004, 0.01)).tiles(np.random.default_rng(0), 5, 8)
    assert tiles.shape == (5, 3, 8, 8)
    # 255 * 0.01 is brighter than a white board: clipped to 1.
    np.testing.assert_allclose(tiles[0, :, 0, 0], [2 * 0.02 - 1, 2 * 0.4 - 1, 1.0], rtol=1e-6)


def test_pool_never_shows_missing_ground() -> None:
    image = np.full((16, 16, 3), 200, np.uint8)
    image[:, 9:] = 0
    tiles = ImagePool(images=[image], gains=(1 / 255,) * 3).tiles(np.random.default_rng(0), 50, 8)
    assert tiles.min() > 0
    with pytest.raises(TrainingDataInvalid, match="missing ground"):
        ImagePool(images=[image], gains=(1 / 255,) * 3).tiles(np.random.default_rng(0), 1, 12)


def test_eight_turns_are_the_symmetries_of_the_square() -> None:
    image = np.arange(9).reshape(3, 3)
    assert len({turn(image, k).tobytes() for k in range(8)}) == 8
    assert all(sorted(turn(image, k).ravel()) == list(range(9)) for k in range(8))


def test_holes_are_zeros_of_at_most_three_tenths() -> None:
    tiles = np.full((40, 2, 20, 20), 0.5, np.float32)
    how = Augmentation(gain=0, band_gain=0, offset=0, hole_probability=1.0)
    out = augment(np.random.default_rng(0), tiles, how)
    share = (out == 0).all(axis=1).mean(axis=(1, 2))
    assert set(np.unique(out)) == {np.float32(0), np.float32(0.5)}
    assert (share > 0).all()
    assert share.max() <= 0.31


def test_light_varies_within_the_half_widths() -> None:
    tiles = np.full((500, 2, 1, 1), 0.5, np.float32)
    how = Augmentation(gain=0.1, band_gain=0.05, offset=0.02, hole_probability=0.0)
    out = augment(np.random.default_rng(0), tiles, how)
    assert out.min() >= 0.5 * np.exp(-0.15) - 0.02
    assert out.max() <= 0.5 * np.exp(0.15) + 0.02
    # The bands share the larger part of the gain.
    assert np.corrcoef(out[:, 0, 0, 0], out[:, 1, 0, 0])[0, 1] > 0.5


def test_area_downsampling_keeps_the_mean() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[::2, ::2] = 200
    assert np.array_equal(area_downsample(image, 4), np.full((4, 4, 3), 50, np.uint8))


def test_colocated_pairs_show_the_same_usable_ground() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(1, 255, (20, 20, 3), dtype=np.uint8)
    usable = np.ones((20, 20), bool)
    usable[:, 12:] = False
    source = ColocatedImages(
        sensors=("a", "b"),
        first=[first],
        second=[first // 2],
        usable=[usable],
        first_gains=(1 / 255,) * 3,
        second_gains=(2 / 255,) * 3,
    )
    a, b = source.pairs(rng, 6, 8)
    assert a.shape == b.shape == (6, 3, 8, 8)
    np.testing.assert_allclose(a, b, atol=2 / 255 * 1.01)


def test_simulated_coarse_pairs_share_grid_and_mean() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    same_light = Augmentation(gain=0, band_gain=0, offset=0, hole_probability=0)
    source = SimulatedCoarse(images=[image], gains=(1 / 255,) * 3, factors=(4,), radiometry=same_light)
    fine, coarse = source.pairs(rng, 3, 16)
    assert fine.shape == coarse.shape == (3, 3, 16, 16)
    np.testing.assert_allclose(fine.mean(axis=(2, 3)), coarse.mean(axis=(2, 3)), atol=0.1)
    assert coarse.std() < fine.std() / 2


def test_a_second_look_without_change_is_the_same_ground() -> None:
    image = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    still = SecondLook(gain=0, band_gain=0, offset=0, gamma=0, blur_px=0, shift_px=0)
    a, b = still.of(np.random.default_rng(1), image, (1 / 255,) * 3, 16)
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_shifted_second_look_is_shifted_by_at_most_its_limit() -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    moved = SecondLook(gain=0, band_gain=0, offset=0, gamma=0, blur_px=0, shift_px=2)
    for seed in range(5):
        a, b = moved.of(np.random.default_rng(seed), image, (1 / 255,) * 3, 16)
        fits = [
            (dr, dc)
            for dr in range(-2, 3)
            for dc in range(-2, 3)
            if np.allclose(a[:, 2 + dr : 14 + dr, 2 + dc : 14 + dc], b[:, 2:14, 2:14], atol=1e-6)
        ]
        assert len(fits) == 1


def test_quantile_gains_recover_a_known_stretch() -> None:
    rng = np.random.default_rng(0)
    reflectance = rng.uniform(0.05, 0.4, (5000, 3))
    found = match_quantiles(reflectance / 0.0025, {"x": reflectance, "y": reflectance}, ("a", "b", "c"))
    np.testing.assert_allclose(found.gains, 0.0025, rtol=1e-6)


def test_one_gain_for_all_bands_is_the_geometric_mean_of_theirs() -> None:
    numbers = np.random.default_rng(0).uniform(20, 200, (5000, 2))
    reference = {"x": numbers * np.array([0.001, 0.004])}
    apart = match_quantiles(numbers, reference, ("a", "b"), per_band=True)
    joint = match_quantiles(numbers, reference, ("a", "b"))
    np.testing.assert_allclose(apart.gains, (0.001, 0.004), rtol=1e-6)
    np.testing.assert_allclose(joint.gains, (0.002, 0.002), rtol=1e-6)


@pytest.mark.real_data
def test_held_out_events_exist_and_are_never_trained_on(data_dir: Path) -> None:
    folder = OmbriaFolder.open(data_dir / "ombria")
    preset = denoiser_preset("sentinel-2")
    assert preset.held_out_events == HELD_OUT_EVENTS
    assert set(HELD_OUT_EVENTS) < set(folder.events)
    assert len(folder.of_events(HELD_OUT_EVENTS)) == 110
