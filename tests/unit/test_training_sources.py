"""Layouts of co-located images: which ground is paired, at which pixels, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.shards import ShardFacts, write_shard
from tests.rasters import write_plain
from training.data.colocated import UNIT, ColocatedFolder, SensorLook, read_look
from training.data.covering import CoveringPairs, same_ground
from training.data.image_files import Decoder, ImageFiles
from training.data.moments import Moments, matched, pooled
from training.data.msc_france import MOMENTS, SIDES, open_msc_france
from training.data.resample import Box, axis_weights, resampled, touched
from training.data.sources import Sources, SourceSettings, open_sources, parse_pairs
from training.data.splits import held_out
from training.errors import RunInvalid, TrainingDataInvalid

SETTINGS = SourceSettings(gains={})


def ramp(height: int, width: int) -> np.ndarray:
    """Ground whose colour says where it is: red its row and green its column, as fractions of the image.  (H, W, 3)"""
    rows = (np.arange(height) + 0.5) / height
    cols = (np.arange(width) + 0.5) / width
    red, green = np.meshgrid(rows, cols, indexing="ij")
    return np.rint(np.stack([red, green, np.full_like(red, 0.5)], axis=-1) * 65535).astype(np.uint16)


def msc_france(root: Path, *, side: int = 12, names: Sequence[str] = ("0001", "0002", "0003")) -> Path:
    """A miniature of the layout, with the true ratios of sides, of 8-bit noise."""
    rng = np.random.default_rng(0)
    for sensor, folder in (("landsat", "Landsat"), ("sentinel", "Sentinel"), ("spot", "SPOT")):
        for city in ("Lyon", "Brest"):
            (root / "MSC-France" / folder / city).mkdir(parents=True)
            for name in names:
                px = round(side * SIDES[sensor])
                pixels = rng.integers(1, 255, (px, px, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "MSC-France" / folder / city / f"{name}.png")
    return root


def looped_weights(length_px: int, start: float, extent: float, size_px: int) -> np.ndarray:
    """What each new pixel takes of each old one, by areas cut into a thousand slivers.  (size, length)"""
    weights = np.zeros((size_px, length_px))
    step = extent / size_px
    for i in range(size_px):
        for j in range(1000):
            weights[i, min(length_px - 1, int(start + step * (i + (j + 0.5) / 1000)))] += 1 / 1000
    return weights


@pytest.mark.parametrize(("start", "extent"), [(0.0, 12.0), (1.3, 9.7), (2.0, 8.0), (3.25, 4.0)])
def test_many_pixels_are_averaged_by_area(start: float, extent: float) -> None:
    where, weights = axis_weights(12, start, extent, 4)
    full = np.zeros((4, 12))
    full[:, where] = weights
    np.testing.assert_allclose(full, looped_weights(12, start, extent, 4), atol=2e-3)


def test_few_pixels_are_interpolated_linearly() -> None:
    image = np.arange(10, dtype=np.uint16)[:, None, None] * np.ones((1, 10, 1), np.uint16) * 100
    box = Box(top=2.0, left=0.0, height=4.0, width=4.0)
    found = resampled(image, box, 16)
    # A line stays a line, sampled at the centres of the new pixels.
    np.testing.assert_allclose(found[:, 3, 0], (2 + (np.arange(16) + 0.5) / 4 - 0.5) * 100, rtol=1e-5)
    assert touched(image, box, 16).shape == (6, 5, 1)


def test_one_pixel_to_one_is_a_copy() -> None:
    image = np.random.default_rng(0).integers(1, 65535, (20, 30, 3), dtype=np.uint16)
    box = Box(top=3, left=7, height=8, width=8)
    np.testing.assert_array_equal(resampled(image, box, 8), image[3:11, 7:15])
    np.testing.assert_array_equal(touched(image, box, 8), image[3:11, 7:15])


@pytest.mark.parametrize(("first", "second"), [((40, 40), (120, 120)), ((262, 262), (40, 40)), ((64, 50), (64, 50))])
def test_both_tiles_of_a_pair_show_the_same_ground(first: tuple[int, int], second: tuple[int, int]) -> None:
    pair = CoveringPairs(
        sensors=("a", "b"),
        first=[ramp(*first)],
        second=[ramp(*second)],
        first_gains=(UNIT,) * 3,
        second_gains=(UNIT,) * 3,
        names=["x"],
    )
    a, b = pair.pairs(np.random.default_rng(0), 24, 32)
    assert a.shape == b.shape == (24, 3, 32, 32)
    # At the image's edges a line cannot go on: half a pixel of the coarser one. Elsewhere an average over a fraction
    # of pixels is off the line by an eighth of a pixel of the finer one at most.
    assert np.abs(a - b).max() <= 2 * 0.5 / min(*first, *second) + 1e-4
    assert np.abs(a - b)[:, :, 8:24, 8:24].max() <= 2 * 0.125 / max(*first, *second) + 1e-4
    assert a.std(axis=(2, 3))[:, :2].min() > 0.01


def test_windows_reach_from_the_finer_to_the_coarser_sensors_own_pixels() -> None:
    rng = np.random.default_rng(0)
    boxes = [same_ground(rng, (100, 100), (300, 300), 32) for _ in range(500)]
    coarse = np.array([box.height for box, _ in boxes])
    fine = np.array([box.height for _, box in boxes])
    np.testing.assert_allclose(fine, 3 * coarse)
    assert fine.min() >= 32
    assert coarse.max() <= 32
    # Log-uniform: half of the draws on either side of the geometric mean, within 4 standard deviations.
    assert abs((fine < 32 * np.sqrt(3)).sum() - 250) < 4 * np.sqrt(125)
    for _ in range(100):
        wide, narrow = same_ground(rng, (40, 40), (786, 786), 32)
        assert 8 <= wide.height <= 32
        assert narrow.top + narrow.height <= 786 + 1e-9
        assert narrow.left + narrow.width <= 786 + 1e-9


def test_missing_ground_is_in_no_pair_and_other_ground_is_refused() -> None:
    holed = ramp(60, 60)
    holed[:, 40:] = 0
    pair = {
        "sensors": ("a", "b"),
        "second": [ramp(180, 180)],
        "first_gains": (UNIT,) * 3,
        "second_gains": (UNIT,) * 3,
        "names": ["Lyon/0001"],
    }
    a, _ = CoveringPairs(first=[holed], **pair).pairs(np.random.default_rng(0), 30, 16)
    assert a.max(axis=1).min() > -1
    # Green is the column: none of the missing third.
    assert a[:, :2].min(axis=(1, 2, 3)).max() < 2 * 40 / 60 - 1
    with pytest.raises(TrainingDataInvalid, match=r"Lyon/0001 has 30x60 px by a and 180x180 px by b"):
        CoveringPairs(first=[ramp(60, 30)], **pair).pairs(np.random.default_rng(0), 1, 16)
    with pytest.raises(TrainingDataInvalid, match="without missing ground"):
        CoveringPairs(first=[holed * 0], **pair).pairs(np.random.default_rng(0), 1, 16)


def test_sensors_are_brought_to_the_moments_of_all_together() -> None:
    rng = np.random.default_rng(0)
    numbers = {"a": rng.normal(0.3, 0.05, (2, 80, 90)), "b": rng.normal(0.5, 0.1, (2, 80, 90))}
    own = {
        sensor: Moments(mean=tuple(x.mean(axis=(1, 2))), std=tuple(x.std(axis=(1, 2)))) for sensor, x in numbers.items()
    }
    common = pooled(list(own.values()))
    both = np.concatenate([numbers["a"], numbers["b"]], axis=2)
    np.testing.assert_allclose(common.mean, both.mean(axis=(1, 2)))
    np.testing.assert_allclose(common.std, both.std(axis=(1, 2)))
    for sensor, x in numbers.items():
        brought = matched(x.astype(np.float32), own[sensor], common)
        np.testing.assert_allclose(brought.mean(axis=(1, 2)), common.mean, atol=2e-3)
        np.testing.assert_allclose(brought.std(axis=(1, 2)), common.std, rtol=2e-2)
    with pytest.raises(TrainingDataInvalid, match="cannot be pooled"):
        pooled([own["a"], Moments(mean=(0.5,), std=(0.1,))])


def test_msc_france_gives_three_sensors_and_their_three_pairs(tmp_path: Path) -> None:
    found = open_sources(SETTINGS, [("msc-france", msc_france(tmp_path))])
    assert [(pool.sensor, len(pool)) for pool in found.pools] == [("landsat", 6), ("sentinel", 6), ("spot", 6)]
    assert [source.sensors for source in found.pairs] == [
        ("landsat", "sentinel"),
        ("landsat", "spot"),
        ("sentinel", "spot"),
    ]
    for source in found.pairs:
        a, b = source.pairs(np.random.default_rng(0), 2, 16)
        assert a.shape == b.shape == (2, 3, 16, 16)
        assert -1 < a.min() < a.max() <= 1
    assert list(found.digests) == ["msc-france"]
    assert not found.notes
    # Either folder may be given.
    assert found.digests == open_sources(SETTINGS, [("msc-france", tmp_path / "MSC-France")]).digests


def test_an_msc_france_image_is_standardised_by_its_sensors_constants(tmp_path: Path) -> None:
    folder = open_msc_france(msc_france(tmp_path, names=("0001",)))
    path = folder.files["spot"]["Lyon/0001"]
    image = folder.images(0.0)["spot"].of([path])[0]
    stored = np.asarray(Image.open(path)) / 255
    common = pooled(list(MOMENTS.values()))
    spot = MOMENTS["spot"]
    expected = np.asarray(common.mean) + np.asarray(common.std) * (stored - spot.mean) / np.asarray(spot.std)
    inside = (expected > 0) & (expected < 1)
    assert inside.mean() > 0.3
    np.testing.assert_allclose((image * UNIT)[inside], expected[inside], atol=2e-5)


def test_what_is_no_msc_france_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataInvalid, match="lacks Landsat, Sentinel, SPOT"):
        open_msc_france(tmp_path)
    root = msc_france(tmp_path, names=("0001",)) / "MSC-France"
    for path in (root / "SPOT").rglob("*.png"):
        path.unlink()
    with pytest.raises(TrainingDataInvalid, match="no image in SPOT"):
        open_msc_france(tmp_path)


def test_any_folder_of_sensors_is_paired_by_name_whatever_the_files_are(tmp_path: Path) -> None:
    grey, colour = ramp(30, 30)[..., 0], ramp(90, 90)
    for sensor in ("radar", "drone"):
        (tmp_path / sensor / "city").mkdir(parents=True)
    Image.fromarray((grey >> 8).astype(np.uint8)).save(tmp_path / "radar" / "city" / "1.png")
    Image.fromarray((grey >> 8).astype(np.uint8)).save(tmp_path / "radar" / "city" / "2.png")
    deep = (np.rint(colour * UNIT * 10_000)).astype(np.uint16)
    write_plain(tmp_path / "drone" / "city" / "1.tif", np.ascontiguousarray(deep.transpose(2, 0, 1)))
    found = open_sources(SETTINGS, [("colocated", tmp_path)])
    assert [(pool.sensor, len(pool)) for pool in found.pools] == [("drone", 1), ("radar", 2)]
    assert found.notes == (f"{tmp_path}: images that no other sensor has serve DINO alone: 1 of radar",)
    (source,) = found.pairs
    drone, radar = source.pairs(np.random.default_rng(0), 8, 16)
    # Grey is the row in all three bands, the drone's red is the row: 8-bit rounding apart, they are one.
    np.testing.assert_allclose(radar[:, 0], radar[:, 2], atol=1e-6)
    np.testing.assert_allclose(drone[:, 0], radar[:, 0], atol=2 * (1 / 255 + 0.5 / 30))


def test_sensors_json_says_what_numbers_mean(tmp_path: Path) -> None:
    pixels = np.stack([np.full((20, 20), value, np.uint8) for value in (10, 20, 30, 40, 50)])
    for sensor in ("a", "b"):
        (tmp_path / sensor).mkdir()
        write_plain(tmp_path / sensor / "1.tif", pixels)
    with pytest.raises(TrainingDataInvalid, match=r"5 bands; say in sensors\.json"):
        ColocatedFolder.open(tmp_path)
    said: dict[str, dict[str, object]] = {
        "a": {"bands": [4, 1], "gains": [0.01, 0.02]},
        "b": {"bands": [1, 2], "gains": [0.01, 0.01]},
    }
    (tmp_path / "sensors.json").write_text(json.dumps(said))
    images = ColocatedFolder.open(tmp_path).images(0.0)
    np.testing.assert_allclose(images["a"][0][3, 4] * UNIT, (0.4, 0.2), atol=1e-5)
    for sensor, mean in (("a", 0.3), ("b", 0.2)):
        said[sensor] |= {"mean": [mean, mean], "std": [0.1, 0.1]}
    (tmp_path / "sensors.json").write_text(json.dumps(said))
    images = ColocatedFolder.open(tmp_path).images(0.0)
    # The common mean is 0.25 and the common deviation √(0.1² + 0.05²).
    deviation = np.sqrt(0.0125)
    np.testing.assert_allclose(images["a"][0][0, 0] * UNIT, 0.25 + deviation * np.array([1, -1]), atol=1e-5)
    for wrong, message in (
        ({"c": {}}, "names c"),
        ({"a": {"gain": [1]}}, "unknown settings"),
        ({"a": {"bands": [1, 2], "gains": [1]}}, "1 gains for 2 bands"),
        ({"a": {"bands": [1], "mean": [0.1]}}, "mean and std together"),
        ({"a": {"bands": "1"}}, "must be a list of numbers"),
        ([], "must map sensors"),
    ):
        (tmp_path / "sensors.json").write_text(json.dumps(wrong))
        with pytest.raises(TrainingDataInvalid, match=message):
            ColocatedFolder.open(tmp_path)


def test_transparent_ground_is_missing_and_black_bands_are_not(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 4), 255, np.uint8)
    pixels[0, :, 3] = 0
    pixels[1, :, :2] = 0
    pixels[2, :, :3] = 0
    Image.fromarray(pixels).save(tmp_path / "x.png")
    image = read_look(tmp_path / "x.png", SensorLook(bands=(1, 2, 3)))
    assert image[:, 0].tolist() == [[0] * 3, [1, 1, 65535], [0] * 3, [65535] * 3]


def test_folders_that_cannot_be_paired_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(ramp(8, 8).astype(np.uint8)).save(tmp_path / "a" / "1.png")
    with pytest.raises(TrainingDataInvalid, match=r"1 sensors \(a\)"):
        ColocatedFolder.open(tmp_path)
    (tmp_path / "b").mkdir()
    Image.fromarray(ramp(8, 8).astype(np.uint8)).save(tmp_path / "b" / "2.png")
    with pytest.raises(TrainingDataInvalid, match="have a file of the same name"):
        ColocatedFolder.open(tmp_path)
    Image.fromarray(ramp(8, 8).astype(np.uint8)).save(tmp_path / "b" / "2.webp")
    with pytest.raises(TrainingDataInvalid, match="have one name"):
        ColocatedFolder.open(tmp_path)


def test_the_same_names_are_held_out_of_every_sensor(tmp_path: Path) -> None:
    names = [f"{i:04}" for i in range(12)]
    root = msc_france(tmp_path, side=2, names=names)
    found = open_sources(SourceSettings(gains={}, held_out_share=0.4), [("msc-france", root)])
    kept = [f"{city}/{name}" for city in ("Brest", "Lyon") for name in names if not held_out(f"{city}/{name}", 0.4)]
    assert 0 < len(kept) < 24
    for pool in found.pools:
        assert isinstance(pool.images, ImageFiles)
        assert [f"{path.parent.name}/{path.stem}" for path in pool.images.paths] == kept
    for source in found.pairs:
        assert isinstance(source, CoveringPairs)
        assert list(source.names) == kept
    with pytest.raises(TrainingDataInvalid, match="only held-out images"):
        open_sources(SourceSettings(gains={}, held_out_share=1.0), [("msc-france", root)])


def test_images_are_decoded_when_asked_for_and_kept_while_they_fit() -> None:
    read: list[str] = []

    def decode(path: Path) -> np.ndarray:
        read.append(path.name)
        return np.full((2, 2, 1), int(path.name), np.uint8)

    files = ImageFiles([Path("1"), Path("2"), Path("3")], Decoder(decode, keep_bytes=8))
    assert not read
    assert [int(image[0, 0, 0]) for image in files] == [1, 2, 3]
    assert [int(image[0, 0, 0]) for image in files.of([Path("3"), Path("1")])] == [3, 1]
    assert read == ["1", "2", "3", "3"]
    with pytest.raises(ValueError, match="read-only"):
        files[0][0] = 0


def test_shards_with_an_earlier_look_give_pairs(tmp_path: Path) -> None:
    facts = ShardFacts(family="aerial", bands=("red", "green", "blue"), gain=(0.001, 0.002, 0.004), gsd_m=0.6)
    tiles = np.full((2, 3, 16, 16), 100, np.uint16)
    write_shard(tmp_path / "a.safetensors", tiles, facts, earlier=tiles * 2)
    found = open_sources(SETTINGS, [("shards", tmp_path)])
    (source,) = found.pairs
    assert source.sensors == ("aerial", "aerial-earlier")
    now, before = source.pairs(np.random.default_rng(0), 2, 8)
    np.testing.assert_allclose(now[0, :, 0, 0], 2 * np.array([0.1, 0.2, 0.4]) - 1, rtol=1e-6)
    np.testing.assert_allclose(before[0, :, 0, 0], 2 * np.array([0.2, 0.4, 0.8]) - 1, rtol=1e-6)


def test_several_folders_of_one_layout_keep_their_digests(tmp_path: Path) -> None:
    for name in ("x", "y"):
        msc_france(tmp_path / name, side=4, names=(name,))
    found: Sources = open_sources(SETTINGS, [("msc-france", tmp_path / "x"), ("msc-france", tmp_path / "y")])
    assert list(found.digests) == ["msc-france", "msc-france:2"]
    assert len(set(found.digests.values())) == 2
    assert len(found.pools) == len(found.pairs) == 6


def test_layouts_are_asked_for_by_name() -> None:
    assert parse_pairs("msc-france=/data/a=b") == ("msc-france", Path("/data/a=b"))
    with pytest.raises(RunInvalid, match="not LAYOUT=DIR"):
        parse_pairs("msc-france")
    with pytest.raises(RunInvalid, match="no pair layout 'x'"):
        open_sources(SETTINGS, [("x", Path())])
    with pytest.raises(RunInvalid, match="no training images"):
        open_sources(SETTINGS, [])
