"""Folders of triples: what numbers mean, what is missing, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.rasters import write_plain
from training.data.heldout import tiles_of
from training.data.reflectance import PixelMeaning, read_flood, read_reflectance
from training.data.triples import TripleFolder, read_triple
from training.errors import TrainingDataInvalid

MEANING = PixelMeaning(gains=(0.001, 0.002, 0.004))


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """(H, W, C) or (H, W) by Pillow, or as a GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in (".tif", ".tiff"):
        return write_plain(path, pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1), **options)
    Image.fromarray(pixels).save(path, **({"lossless": True} if path.suffix.lower() == ".webp" else {}), **options)
    return path


def colour(value: tuple[float, float, float], dtype: str = "uint8", side: int = 8) -> np.ndarray:
    return np.tile(np.asarray(value, dtype), (side, side, 1))


def triple(root: Path, stem: str, suffixes: tuple[str, str, str] = (".webp", ".png", ".png")) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    for part, suffix in zip(("before", "after", "mask"), suffixes, strict=True):
        save(root / part / f"{stem}{suffix}", mask if part == "mask" else colour((100, 50, 25)))


def test_files_of_one_stem_belong_together_whatever_their_kind(tmp_path: Path) -> None:
    triple(tmp_path, "a")
    triple(tmp_path, "b", (".tif", ".WEBP", ".tiff"))
    (tmp_path / "before" / "a.txt").write_text("no image")
    folder = TripleFolder.open(tmp_path)
    assert [image.id for image in folder.images] == ["a", "b"]
    for image in folder.images:
        read = read_triple(image, MEANING)
        np.testing.assert_allclose(read.before[:, 0, 0], [0.1, 0.1, 0.1], rtol=1e-6)
        np.testing.assert_allclose(read.before, read.after)
        assert read.flooded[:4].all()
        assert not read.flooded[4:].any()
        assert read.known.all()
        assert read.present.all()


@pytest.mark.parametrize(
    ("name", "pixels", "expected"),
    [
        ("a.png", colour((100, 50, 25)), (0.1, 0.1, 0.1)),
        ("a.tif", colour((100, 50, 25)), (0.1, 0.1, 0.1)),
        ("a.tif", colour((1000, 2000, 20000), "uint16"), (0.1, 0.2, 1.0)),
        ("a.tif", colour((1000, 2000, -50), "int16"), (0.1, 0.2, 0.0)),
        ("a.tif", colour((0.1, 0.2, 1.2), "float32"), (0.1, 0.2, 1.0)),
    ],
)
def test_numbers_become_reflectance_by_their_type(
    name: str, pixels: np.ndarray, expected: tuple[float, ...], tmp_path: Path
) -> None:
    found, present = read_reflectance(save(tmp_path / name, pixels), MEANING)
    assert found.dtype == np.float32
    assert found.shape == (3, 8, 8)
    np.testing.assert_allclose(found[:, 3, 5], expected, rtol=1e-5)
    assert present.all()


def test_a_declared_scale_goes_before_the_type(tmp_path: Path) -> None:
    import rasterio

    path = save(tmp_path / "a.tif", colour((1100, 1200, 1300), "uint16"))
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (2e-4,) * 3, (-0.1,) * 3
    found, _ = read_reflectance(path, MEANING)
    np.testing.assert_allclose(found[:, 0, 0], [0.12, 0.14, 0.16], rtol=1e-5)


def test_bands_are_picked_by_number_in_the_order_wanted(tmp_path: Path) -> None:
    pixels = np.stack([np.full((8, 8), 1000 * (i + 1), np.uint16) for i in range(5)], axis=-1)
    path = save(tmp_path / "a.tif", pixels)
    found, _ = read_reflectance(path, PixelMeaning(gains=MEANING.gains, bands=(5, 1, 2)))
    np.testing.assert_allclose(found[:, 0, 0], [0.5, 0.1, 0.2], rtol=1e-5)
    with pytest.raises(TrainingDataInvalid, match="5 bands, 3 are wanted"):
        read_reflectance(path, MEANING)
    with pytest.raises(TrainingDataInvalid, match="has 5 bands; bands"):
        read_reflectance(path, PixelMeaning(gains=MEANING.gains, bands=(6, 1, 2)))


def test_ground_is_missing_where_all_is_zero_or_anything_is_nodata_or_nan(tmp_path: Path) -> None:
    pixels = colour((0.1, 0.2, 0.3), "float32")
    pixels[0, 0] = 0
    pixels[0, 1, 2] = np.nan
    pixels[0, 2, 0] = -9
    pixels[0, 3, 0] = 0
    found, present = read_reflectance(save(tmp_path / "a.tif", pixels, nodata=-9), MEANING)
    assert not present[0, :3].any()
    assert present.sum() == 61
    assert (found[:, ~present] == 0).all()


def test_transparent_pixels_are_missing_and_alpha_is_no_band(tmp_path: Path) -> None:
    pixels = np.concatenate([colour((100, 50, 25)), np.full((8, 8, 1), 255, np.uint8)], axis=-1)
    pixels[2, 2, 3] = 0
    found, present = read_reflectance(save(tmp_path / "a.png", pixels), MEANING)
    assert found.shape[0] == 3
    assert present.sum() == 63
    assert not present[2, 2]


@pytest.mark.parametrize(("dtype", "values"), [("uint8", (0, 255)), ("uint8", (0, 1)), ("int16", (0, 7))])
def test_masks_are_flooded_above_zero(dtype: str, values: tuple[int, int], tmp_path: Path) -> None:
    mask = np.full((8, 8), values[0], dtype)
    mask[2:4] = values[1]
    flooded, known = read_flood(save(tmp_path / "m.tif", mask, nodata=0))
    assert known.all()
    assert np.array_equal(flooded, mask > 0)


def test_negative_and_nodata_mask_values_say_nothing(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), np.int16)
    mask[0], mask[1], mask[2] = 1, -1, 99
    flooded, known = read_flood(save(tmp_path / "m.tif", mask, nodata=99))
    assert flooded[0].all()
    assert flooded.sum() == 8
    assert not known[1:3].any()
    assert known.sum() == 48


def test_masks_in_colour_one_bit_and_palette_are_read(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), bool)
    mask[:, :3] = True
    palette = Image.fromarray(mask.astype(np.uint8))
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.save(tmp_path / "palette.png")
    Image.fromarray(mask).save(tmp_path / "bit.png")
    Image.fromarray(mask[..., None] * np.array([0, 0, 255], np.uint8)).save(tmp_path / "blue.webp", lossless=True)
    for name in ("palette.png", "bit.png", "blue.webp"):
        flooded, known = read_flood(tmp_path / name)
        assert np.array_equal(flooded, mask), name
        assert known.all()


def test_lone_stems_are_listed_with_the_part_that_lacks_them(tmp_path: Path) -> None:
    for stem in ("a", "b", "c"):
        triple(tmp_path, stem)
    (tmp_path / "mask" / "b.png").unlink()
    (tmp_path / "after" / "c.png").unlink()
    with pytest.raises(TrainingDataInvalid, match="after/ lacks 'c'; mask/ lacks 'b'"):
        TripleFolder.open(tmp_path)


def test_a_folder_without_images_or_without_a_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataInvalid, match="before is not there"):
        TripleFolder.open(tmp_path)
    (tmp_path / "before").mkdir()
    with pytest.raises(TrainingDataInvalid, match="holds no image"):
        TripleFolder.open(tmp_path)


def test_two_files_of_one_stem_are_refused(tmp_path: Path) -> None:
    triple(tmp_path, "a")
    save(tmp_path / "after" / "a.tif", colour((1, 2, 3)))
    with pytest.raises(TrainingDataInvalid, match="same stem"):
        TripleFolder.open(tmp_path)


def test_files_of_other_sizes_are_named(tmp_path: Path) -> None:
    triple(tmp_path, "a")
    save(tmp_path / "mask" / "a.png", np.zeros((4, 8), np.uint8))
    with pytest.raises(TrainingDataInvalid, match=r"mask/a\.png is 8 x 4 px"):
        read_triple(TripleFolder.open(tmp_path).images[0], MEANING)


def test_what_cannot_be_read_is_refused_with_the_file(tmp_path: Path) -> None:
    broken = tmp_path / "a.png"
    broken.write_bytes(b"\x89PNG not really")
    with pytest.raises(TrainingDataInvalid, match=r"a\.png cannot be decoded"):
        read_reflectance(broken, MEANING)
    with pytest.raises(TrainingDataInvalid, match="1 bands"):
        read_reflectance(save(tmp_path / "grey.png", np.full((8, 8), 9, np.uint8)), MEANING)
    with pytest.raises(TrainingDataInvalid, match="no reflectance"):
        read_reflectance(save(tmp_path / "f.tif", colour((900.0, 800.0, 700.0), "float32")), MEANING)
    with pytest.raises(TrainingDataInvalid, match="int32 numbers"):
        read_reflectance(save(tmp_path / "i.tif", colour((9, 8, 7), "int32")), MEANING)


def test_colour_pngs_of_16_bits_are_refused_rather_than_cut_to_8(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(range(12)) for _ in range(2))
    path = tmp_path / "deep.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    with pytest.raises(TrainingDataInvalid, match="16 bits"):
        read_reflectance(path, MEANING)


def test_events_come_from_the_index_and_what_it_lacks_is_said(tmp_path: Path) -> None:
    for stem in ("a", "b", "c", "d"):
        triple(tmp_path, stem)
    assert TripleFolder.open(tmp_path).events == ("image a", "image b", "image c", "image d")
    assert "event of its own" in TripleFolder.open(tmp_path).notes[0]
    # As a spreadsheet writes it: with a byte order mark, and ids that are file names.
    (tmp_path / "index.csv").write_text("\ufeffid,event\na.webp,Ebro 2018\nb,Ebro 2018\nc,\nz,Po\n", encoding="utf-8")
    folder = TripleFolder.open(tmp_path)
    assert [image.event for image in folder.images] == ["Ebro 2018", "Ebro 2018", "image c", "image d"]
    assert any("'c', 'd'" in note for note in folder.notes)
    assert any("'z'" in note for note in folder.notes)
    assert [image.id for image in folder.of_events(["Ebro 2018"]).images] == ["a", "b"]
    with pytest.raises(TrainingDataInvalid, match="'Po'"):
        folder.of_events(["Po"])
    (tmp_path / "index.csv").write_text("name,event\na,x\n")
    with pytest.raises(TrainingDataInvalid, match="'id' and 'event'"):
        TripleFolder.open(tmp_path)


def test_the_digest_sees_contents_index_and_not_places(tmp_path: Path) -> None:
    for place in ("one", "two"):
        triple(tmp_path / place, "a")
    one, two = (TripleFolder.open(tmp_path / place) for place in ("one", "two"))
    assert one.digest() == two.digest()
    (tmp_path / "two" / "index.csv").write_text("id,event\na,x\n")
    assert one.digest() != TripleFolder.open(tmp_path / "two").digest()


def test_tiles_are_whole_complete_and_known_and_measure_the_flood_on_known_ground(tmp_path: Path) -> None:
    pixels = np.tile(np.asarray([100, 50, 25], np.uint8), (10, 14, 1))
    after = pixels.copy()
    after[0, 5] = 0
    mask = np.zeros((10, 14), np.int16)
    # Tiles of 4 px: rows 0 and 4, columns 0, 4, 8.
    mask[0:2, 0:4] = 1
    mask[4, 0:4], mask[5:7, 0:4] = -1, 1
    mask[4:6, 4:8] = -1
    save(tmp_path / "before" / "a.png", pixels)
    save(tmp_path / "after" / "a.png", after)
    save(tmp_path / "mask" / "a.tif", mask)
    tiles = tiles_of(TripleFolder.open(tmp_path).images[0], MEANING, 4)
    # (0, 4) lacks ground after the flood; of (4, 4) half is unknown.
    assert len(tiles) == 4
    np.testing.assert_allclose(tiles.flooded, [0.5, 0, 8 / 12, 0])
    assert tiles.before.shape == tiles.after.shape == (4, 3, 4, 4)
    assert tiles.known[2].sum() == 12
    assert np.array_equal(tiles.mask[0], mask[0:4, 0:4] > 0)
    assert len(tiles_of(TripleFolder.open(tmp_path).images[0], MEANING, 11)) == 0
