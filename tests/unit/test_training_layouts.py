"""Layouts of training folders: what is read, what is held out, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from engine.errors import ShardInvalid
from engine.shards import ShardFacts, read_shard, write_shard
from engine.unet import UnetConfig
from tests.rasters import transform_at, write_plain
from training.data.folder import ImageFolder, read_image, read_images
from training.data.geotiffs import read_own
from training.data.shards import ShardFolder
from training.data.spacenet8 import SpaceNet8Folder, read_before, read_looks
from training.data.splits import held_out
from training.denoise.joint import planes
from training.denoise.layouts import LAYOUTS
from training.denoise.normal_tiles import NormalTiles, measure, open_tiles
from training.errors import TrainingDataInvalid
from training.presets import DenoiserPreset, denoiser_preset

PLAIN = UnetConfig(in_chans=3, width=8, mults=(1, 2), blocks=1, attention=False)


def preset(layout: str, **changes: object) -> DenoiserPreset:
    base = replace(denoiser_preset("aerial"), layout=layout, tile_px=16, crop_px=16, sides_px=(), unet=PLAIN)
    return replace(base, **changes)  # type: ignore[arg-type]


def noise(shape: tuple[int, ...], kind: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, np.iinfo(kind).max, shape, dtype=kind)


def test_names_are_held_out_in_the_share_asked_for_and_larger_shares_hold_out_more() -> None:
    names = [f"image {i}.png" for i in range(4000)]
    small, large = ({name for name in names if held_out(name, share)} for share in (0.1, 0.3))
    assert small < large
    # Three standard deviations of a binomial of 4,000 draws.
    assert abs(len(small) - 400) < 3 * np.sqrt(4000 * 0.1 * 0.9)
    assert abs(len(large) - 1200) < 3 * np.sqrt(4000 * 0.3 * 0.7)
    assert not any(held_out(name, 0.0) for name in names)
    assert all(held_out(name, 1.0) for name in names)


def test_a_folder_is_split_by_name_below_its_root(tmp_path: Path) -> None:
    for i in range(30):
        path = tmp_path / ("a" if i % 2 else "b") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noise((16, 16, 3), seed=i)).save(path)
    folder = ImageFolder.open(tmp_path)
    train, kept = folder.split(0.3)
    assert sorted(train + kept) == list(folder.paths)
    assert {path.relative_to(tmp_path).as_posix() for path in kept} == {
        name for i in range(30) if held_out(name := f"{'a' if i % 2 else 'b'}/{i}.png", 0.3)
    }
    assert kept
    tiles = open_tiles(preset("folder", held_out_share=0.3), tmp_path)
    assert len(tiles.pool) == len(train)
    assert tiles.digests == {"folder": folder.digest()}


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_8_bit_images_are_read_without_loss(suffix: str, tmp_path: Path) -> None:
    pixels = noise((20, 18, 3))
    Image.fromarray(pixels).save(tmp_path / f"x{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(read_image(tmp_path / f"x{suffix}"), pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_images_are_read_without_loss(suffix: str, tmp_path: Path) -> None:
    pixels = noise((20, 18), np.uint16)
    Image.fromarray(pixels).save(tmp_path / f"x{suffix}")
    found = read_image(tmp_path / f"x{suffix}")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found[:, :, 0], pixels)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_geotiffs_of_many_bands_are_read_on_their_own_pixels(kind: type, tmp_path: Path) -> None:
    pixels = noise((5, 40, 48), kind)
    pixels[:, 3, 4] = 0
    write_plain(tmp_path / "x.tif", pixels)
    for found in (read_own(tmp_path / "x.tif"), read_image(tmp_path / "x.tif")):
        assert found.dtype == kind
        np.testing.assert_array_equal(found, pixels.transpose(1, 2, 0))


def test_16_bit_colour_is_never_cut_to_8_bits(tmp_path: Path) -> None:
    """A PNG of 16-bit RGB, made by hand: signature, header chunk; Pillow alone would read it as 8 bits."""
    header = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + b"IHDR" + bytes([0, 0, 0, 1, 0, 0, 0, 1, 16, 2, 0, 0, 0])
    (tmp_path / "x.png").write_bytes(header)
    with pytest.raises(TrainingDataInvalid, match="save it as GeoTIFF"):
        read_image(tmp_path / "x.png")
    deep = noise((3, 32, 32), np.uint16)
    write_plain(tmp_path / "y.tif", deep)
    np.testing.assert_array_equal(read_image(tmp_path / "y.tif"), deep.transpose(1, 2, 0))


def test_what_a_folder_may_not_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataInvalid, match="no image below"):
        ImageFolder.open(tmp_path)
    Image.fromarray(noise((20, 20, 3))).save(tmp_path / "a.png")
    Image.fromarray(noise((20, 20), np.uint16)).save(tmp_path / "b.png")
    paths = ImageFolder.open(tmp_path).paths
    with pytest.raises(TrainingDataInvalid, match=r"b\.png has 1 bands, and 3"):
        read_images(paths, 3, 16)
    with pytest.raises(TrainingDataInvalid, match="one gain cannot serve both"):
        read_images(paths, 1, 16)
    with pytest.raises(TrainingDataInvalid, match="20x20 px and cannot hold a 24 px tile"):
        read_images(paths, 1, 24)
    (tmp_path / "c.png").write_bytes(b"nonsense")
    with pytest.raises(TrainingDataInvalid, match=r"c\.png is no image"):
        read_image(tmp_path / "c.png")


FACTS = ShardFacts(family="aerial", bands=("red", "green", "blue"), gain=(0.001, 0.002, 0.004), gsd_m=0.6)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float16"])
def test_a_shard_comes_back_as_it_was_written(kind: str, tmp_path: Path) -> None:
    tiles = noise((4, 3, 16, 16)).astype(kind)
    earlier = noise((4, 3, 16, 16), seed=1).astype(kind)
    write_shard(tmp_path / "a.safetensors", tiles, FACTS, earlier=earlier)
    shard = read_shard(tmp_path / "a.safetensors")
    assert shard.facts == FACTS
    assert shard.earlier is not None
    for found, written in ((shard.tiles, tiles), (shard.earlier, earlier)):
        assert found.dtype == written.dtype
        np.testing.assert_array_equal(found, written)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_shards_bring_their_own_gains_and_their_earlier_looks(tmp_path: Path) -> None:
    flat = np.full((2, 3, 16, 16), 100, np.uint16)
    write_shard(tmp_path / "a.safetensors", flat, FACTS, earlier=flat * 2)
    write_shard(tmp_path / "b.safetensors", flat, FACTS)
    how = replace(denoiser_preset("aerial").augmentation, gain=0, band_gain=0, offset=0, hole_probability=0.0)
    chosen = preset("shards", augmentation=how, unet=replace(PLAIN, cond_chans=4))
    tiles = open_tiles(chosen, tmp_path)
    assert isinstance(tiles, NormalTiles)
    assert tiles.preset.gains == FACTS.gain
    assert len(tiles.pool) == 4
    assert tiles.pairs is not None
    assert len(tiles.pairs.pairs) == 2
    x, cond = tiles.draw(np.random.default_rng(0), 8, 16)
    assert cond is not None
    now, before = (2 * np.array(FACTS.gain) * value - 1 for value in (100, 200))
    for tile, told in zip(x[:4, :, 0, 0], cond[:4, :, 0, 0], strict=True):
        # Which look is the tile is drawn.
        pair = (now, before) if np.allclose(tile, now) else (before, now)
        np.testing.assert_allclose(tile, pair[0], rtol=1e-6)
        np.testing.assert_allclose(told, [*pair[1], 1], rtol=1e-6)
    np.testing.assert_allclose(x[4:, :, 0, 0], np.tile(now, (4, 1)), rtol=1e-6)
    assert not cond[4:].any()


def test_shards_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    tiles = noise((2, 3, 16, 16))
    path = tmp_path / "a.safetensors"
    with pytest.raises(ShardInvalid, match=r"int32\(2, 3, 16, 16\)"):
        write_shard(path, tiles.astype(np.int32), FACTS)
    with pytest.raises(ShardInvalid, match="3 bands and 3 gains are named for 2 channels"):
        write_shard(path, tiles[:, :2], FACTS)
    with pytest.raises(ShardInvalid, match="must be alike"):
        write_shard(path, tiles, FACTS, earlier=tiles[:1])
    with pytest.raises(TrainingDataInvalid, match="no tile shard"):
        ShardFolder.open(tmp_path)
    write_shard(path, tiles, replace(FACTS, family="sentinel-2"))
    with pytest.raises(TrainingDataInvalid, match="hold sentinel-2 tiles"):
        open_tiles(preset("shards"), tmp_path)
    write_shard(path, tiles, FACTS)
    with pytest.raises(TrainingDataInvalid, match=r"set unet\.cond_chans to 0"):
        open_tiles(preset("shards", unet=replace(PLAIN, cond_chans=4)), tmp_path)
    write_shard(tmp_path / "b.safetensors", tiles, replace(FACTS, gsd_m=1.0))
    with pytest.raises(TrainingDataInvalid, match="two folders"):
        ShardFolder.open(tmp_path)
    save_file({"tiles": tiles}, path)
    with pytest.raises(ShardInvalid, match=r"'vigie\.tiles\.v1' and 'vigie\.tiles\.v2' are read"):
        read_shard(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ShardInvalid, match="no tile shard"):
        read_shard(path)


def spacenet8_area(root: Path, aoi: str = "Germany_Training_Public", places: int = 3) -> Path:
    """A miniature area: images before of 0.5 m, after of 1 m, a flooded house and a dry road; in UTM, to be exact."""
    folder = root / aoi
    for part in ("PRE-event", "POST-event", "annotations"):
        (folder / part).mkdir(parents=True)
    rows = ["label,pre-event image,post-event image 1,post-event image 2"]
    for i in range(places):
        origin = (476_160.0 + 100 * i, 5_867_520.0)
        before = np.full((3, 64, 64), 40, np.uint8)
        before[:, ::2] = 60
        write_plain(folder / "PRE-event" / f"pre_0_{i}.tif", before, transform=transform_at(0.5, origin))
        after = np.full((3, 32, 32), 90 + i, np.uint8)
        write_plain(folder / "POST-event" / f"post_0_{i}.tif", after, transform=transform_at(1.0, origin))
        (folder / "annotations" / f"0_{i}.geojson").write_text(json.dumps(labels(origin)))
        second = f"post_0_{i}.tif" if i == 0 else ""
        rows.append(f"0_{i}.geojson,pre_0_{i}.tif,post_0_{i}.tif,{second}")
    (folder / f"{aoi}_label_image_mapping.csv").write_text("\n".join(rows) + "\n")
    return folder


def labels(origin: tuple[float, float]) -> dict[str, object]:
    from pyproj import Transformer

    to_degrees = Transformer.from_crs("EPSG:32629", "EPSG:4326", always_xy=True).transform

    def at(x: float, y: float) -> list[float]:
        return list(to_degrees(origin[0] + x, origin[1] - y))

    house = [[at(4, 4), at(12, 4), at(12, 10), at(4, 10), at(4, 4)]]
    road = [at(0, 20.4), at(32, 20.4)]
    note = {"building": None, "highway": None, "flooded": "yes"}
    return {
        "type": "FeatureCollection",
        "features": [
            feature("Polygon", house, {"building": "yes", "flooded": "yes"}),
            feature("LineString", road, {"highway": "residential", "flooded": None}),
            feature("LineString", road, note),
        ],
    }


def feature(kind: str, coordinates: object, properties: dict[str, object]) -> dict[str, object]:
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def test_spacenet8_is_read_at_half_resolution_on_one_grid(tmp_path: Path) -> None:
    folder = SpaceNet8Folder.open(spacenet8_area(tmp_path))
    assert [len(tile.after) for tile in folder.tiles] == [2, 1, 1]
    looks = read_looks(folder.tiles[1])
    assert looks.gsd_m == pytest.approx(1.0, abs=1e-6)
    # Rows of 40 and 60 in turn, averaged.
    assert looks.before.shape == (32, 32, 3)
    assert set(np.unique(looks.before[1:-1, 1:-1])) == {50}
    assert set(np.unique(looks.after[0])) == {91}
    np.testing.assert_array_equal(read_before(folder.tiles[1]), looks.before)


def test_spacenet8_labels_lie_where_they_were_drawn(tmp_path: Path) -> None:
    looks = read_looks(SpaceNet8Folder.open(spacenet8_area(tmp_path)).tiles[0])
    house, road = np.zeros((32, 32), bool), np.zeros((32, 32), bool)
    house[4:10, 4:12] = True
    # The road runs along y = 20.4 m and is drawn 6 m wide: centres from 17.5 to 22.5 m lie on it. Its ends are round.
    road[17:23, 1:-1] = True
    np.testing.assert_array_equal(looks.flooded, house)
    np.testing.assert_array_equal(looks.dry[:, 1:-1], road[:, 1:-1])


def test_spacenet8_is_split_by_place_and_several_areas_are_one_folder(tmp_path: Path) -> None:
    for aoi in ("Germany_Training_Public", "Louisiana-East_Training_Public"):
        spacenet8_area(tmp_path, aoi, places=8)
    folder = SpaceNet8Folder.open(tmp_path)
    assert folder.aois == ("Germany_Training_Public", "Louisiana-East_Training_Public")
    train, kept = folder.split(0.3)
    assert {tile.id for tile in kept} == {tile.id for tile in folder.tiles if held_out(tile.id, 0.3)}
    assert kept
    assert len(train) + len(kept) == 16
    tiles = open_tiles(preset("spacenet8", held_out_share=0.3), tmp_path)
    assert len(tiles.pool) == len(train)


def test_spacenet8_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataInvalid, match="label_image_mapping"):
        SpaceNet8Folder.open(tmp_path)
    folder = spacenet8_area(tmp_path)
    (folder / "POST-event" / "post_0_2.tif").unlink()
    with pytest.raises(TrainingDataInvalid, match=r"post_0_2\.tif is not there"):
        SpaceNet8Folder.open(folder)
    (folder / "Germany_Training_Public_label_image_mapping.csv").write_text("label,pre\n1,2\n")
    with pytest.raises(TrainingDataInvalid, match="lacks the columns"):
        SpaceNet8Folder.open(folder)


def test_an_unknown_layout_is_told_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataInvalid, match="classes, folder, joint, ombria, shards, spacenet8"):
        open_tiles(preset("tar"), tmp_path)
    for layout in LAYOUTS:
        with pytest.raises(TrainingDataInvalid, match="takes one folder"):
            open_tiles(preset(layout), [tmp_path, tmp_path])


def joint_folders(root: Path) -> tuple[Path, Path]:
    ombria, classes = root / "ombria", root / "classes"
    for part in ("before", "after", "mask"):
        (ombria / part).mkdir(parents=True)
    Image.fromarray(np.full((64, 64, 3), 100, np.uint8)).save(ombria / "before" / "1.webp", lossless=True)
    Image.fromarray(np.full((64, 64, 3), 100, np.uint8)).save(ombria / "after" / "1.webp", lossless=True)
    Image.fromarray(np.zeros((64, 64), bool)).save(ombria / "mask" / "1.png")
    (ombria / "index.csv").write_text("id,event\n1,x_block_A\n")
    (classes / "field").mkdir(parents=True)
    Image.fromarray(np.full((192, 192, 3), 200, np.uint8)).save(classes / "field" / "1.png")
    return ombria, classes


def test_joint_tiles_are_told_their_family_and_pixel_size(tmp_path: Path) -> None:
    folders = joint_folders(tmp_path)
    tiles = open_tiles(denoiser_preset("joint"), folders)
    assert set(tiles.digests) == {"sentinel-2", "aerial"}
    x, cond = tiles.draw(np.random.default_rng(0), 40, 32)
    assert cond is not None
    assert x.shape == (40, 3, 32, 32)
    np.testing.assert_array_equal(cond[:20, 0], 1)
    np.testing.assert_array_equal(cond[:20, 1], 0)
    np.testing.assert_array_equal(cond[20:, 0], -1)
    # 192, 128 and 64 px of 76.8 m.
    sizes = [float(np.log2(gsd_m / 10) / 8) for gsd_m in (0.4, 0.6, 1.2)]
    assert sorted({float(plane[0, 0]) for plane in cond[20:, 1]}) == pytest.approx(sizes)
    assert (tiles.nothing_known(cond) == cond).all()
    mean = measure(tiles.pool, 32, seed=0).mean
    assert mean == pytest.approx([2 * (100 * 0.00267 + 200 / 255) / 2 - 1] * 3, abs=1e-6)


def test_joint_wants_one_folder_a_part(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataInvalid, match="one for each of sentinel-2, aerial"):
        open_tiles(denoiser_preset("joint"), tmp_path)
    wrong = replace(denoiser_preset("joint"), parts=("aerial",))
    with pytest.raises(TrainingDataInvalid, match="1 parts"):
        open_tiles(wrong, tmp_path)


def test_planes_are_constant_and_zero_at_ten_metres() -> None:
    told = planes(-1.0, 10 * 2**-4, 2, 8)
    assert told.shape == (2, 2, 8, 8)
    assert (told[:, 0] == -1).all()
    assert (told[:, 1] == -0.5).all()
    assert (planes(1.0, 10.0, 1, 8)[:, 1] == 0).all()
