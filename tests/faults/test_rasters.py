"""Bad rasters and bad servers: each a clear error of the right kind, before or between pixels, never silent zeros."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely

from engine.errors import RasterCorrupt, RasterRefused, RasterUnavailable, VigieError
from engine.raster import ReadLimits, ReadReport, describe, read_tiles, write_geotiff
from tests.rasters import aerial_plan, sentinel_plan, transform_at, write_plain
from tests.servers.http_range import Fault, RangeServer

QUICK = ReadLimits(request_timeout_s=1, retries=0)


def noise(side: int = 512, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 6000, (side, side)).astype(np.uint16)


def read(href: Path | str, *, limits: ReadLimits = QUICK, nodata: float | None = None) -> ReadReport:
    reader = read_tiles(sentinel_plan({"red": href}, nodata=nodata), None, limits=limits)
    for batch in reader:
        assert np.isfinite(batch.pixels).all()
    return reader.report


# Files.


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.touch()
    with pytest.raises(RasterCorrupt, match=r"a\.tif is empty"):
        read(path)


def test_a_file_that_is_not_there_may_come(tmp_path: Path) -> None:
    with pytest.raises(RasterUnavailable, match="is not there"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("layout", ["tiled", "strips", "uncompressed", "cog"])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.6, 0.98])
@pytest.mark.parametrize("nodata", [None, 0])
def test_a_file_cut_off_anywhere(tmp_path: Path, layout: str, share: float, nodata: int | None) -> None:
    path = tmp_path / "a.tif"
    if layout == "cog":
        write_geotiff(path, noise(), 32629, transform_at(10.0)[:6], nodata=nodata)
    elif layout == "tiled":
        write_plain(path, noise(), nodata=nodata)
    else:
        write_plain(
            path, noise(), strips=True, compress="none" if layout == "uncompressed" else "deflate", nodata=nodata
        )
    whole = path.read_bytes()
    assert read(path).read == 64
    path.write_bytes(whole[: int(share * len(whole))])
    # What is missing differs: pixels, the tables of blocks, or the tags that say where on Earth it is.
    with pytest.raises(RasterCorrupt, match=r"truncated|damaged|never written|without CRS"):
        read(path)


def test_a_file_with_a_damaged_block(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "a.tif", noise())
    data = bytearray(path.read_bytes())
    with rasterio.open(path) as dataset:
        offset = int(dataset.get_tag_item("BLOCK_OFFSET_3_3", "TIFF", bidx=1))
    data[offset : offset + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(RasterCorrupt, match="damaged"):
        read(path)


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (b'<VRTDataset rasterXSize="1" rasterYSize="1"><SRS>/etc/passwd</SRS></VRTDataset>', RasterRefused, "VRT"),
        (b"  <?xml version='1.0'?><GDAL_WMS/>", RasterRefused, "XML"),
        (b"<!doctype html><title>Sign in</title>", RasterRefused, "HTML"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), RasterCorrupt, "not a GeoTIFF"),
        (b"PK\x03\x04" + bytes(64), RasterCorrupt, "not a GeoTIFF"),
        (b"II*\x00", RasterCorrupt, "truncated"),
        (b"II*\x00" + b"\xff" * 400, RasterCorrupt, "truncated or damaged"),
    ],
)
def test_a_file_that_is_something_else(tmp_path: Path, content: bytes, error: type[VigieError], text: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(error, match=text):
        read(path)


@pytest.mark.parametrize(
    "href", ["/vsicurl/http://127.0.0.1/a.tif", "/vsimem/a.tif", "a.tif", "GTIFF_DIR:1:/a.tif", "s3://b/a.tif", ""]
)
def test_names_that_only_gdal_understands_are_never_opened(href: str) -> None:
    with pytest.raises((RasterRefused, RasterUnavailable), match=r"nothing else is opened|is not there"):
        read(href)


def test_a_file_without_crs(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "a.tif", noise(64), crs=None)
    with pytest.raises(RasterCorrupt, match="file without CRS"):
        read(path)
    with pytest.raises(RasterCorrupt, match="file without CRS"):
        describe(path)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_file_without_geotransform(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", count=1, width=64, height=64, dtype="uint16", crs=32629) as dataset:
        dataset.write(noise(64), 1)
    with pytest.raises(RasterCorrupt, match="file without geotransform"):
        read(path)


def test_a_file_beyond_utm(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "a.tif", noise(64), crs="EPSG:3995", transform=transform_at(10.0, (0.0, 0.0)))
    with pytest.raises(RasterRefused, match="beyond UTM"):
        read(path)


def test_all_nodata_skips_every_tile(tmp_path: Path) -> None:
    report = read(write_plain(tmp_path / "a.tif", np.zeros((256, 256), np.uint16), nodata=0))
    assert (report.total, report.read, report.skipped) == (16, 0, {"nodata": 16})


def test_nan_and_infinity_are_no_ground(tmp_path: Path) -> None:
    values = noise(256).astype(np.float32)
    values[:128] = np.nan
    values[128:, :128] = np.inf
    report = read(write_plain(tmp_path / "a.tif", values))
    assert (report.read, report.skipped) == (4, {"nodata": 12})


def test_one_value_everywhere_is_read_as_it_stands(tmp_path: Path) -> None:
    assert read(write_plain(tmp_path / "a.tif", np.full((128, 128), 1234, np.uint16))).read == 4


def sparse(path: Path, nodata: float | None) -> Path:
    """A file of which only one tile of 64 px was ever written."""
    with rasterio.open(
        path, "w", driver="GTiff", count=1, width=128, height=128, dtype="uint16", crs=32629, nodata=nodata,
        transform=transform_at(10.0), tiled=True, blockxsize=64, blockysize=64, SPARSE_OK=True,
    ) as dataset:  # fmt: skip
        dataset.write(noise(64), 1, window=rasterio.windows.Window(0, 0, 64, 64))
    return path


def test_a_sparse_file_is_nodata_where_it_says_what_nodata_is(tmp_path: Path) -> None:
    report = read(sparse(tmp_path / "a.tif", nodata=0))
    assert (report.read, report.skipped) == (1, {"nodata": 3})


def test_a_sparse_file_that_does_not_is_corrupt(tmp_path: Path) -> None:
    path = sparse(tmp_path / "a.tif", nodata=None)
    with rasterio.open(path) as dataset:
        assert not dataset.read(1)[64:, 64:].any(), "GDAL reads what is absent as zeros: hence the check"
    with pytest.raises(RasterCorrupt, match="never written"):
        read(path)


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (ReadLimits(max_pixels=128 * 128 - 1), "128 x 128 pixels; the limit is 16383"),
        (ReadLimits(max_bands=2), "3 bands; the limit is 2"),
        (ReadLimits(max_bytes=1000), "bytes; the limit is 1000"),
        (ReadLimits(max_block_bytes=64 * 64 * 3 - 1), "packed in blocks of 64 x 64"),
    ],
)
def test_limits_are_checked_before_a_pixel_is_read(tmp_path: Path, limits: ReadLimits, text: str) -> None:
    values = np.random.default_rng(0).integers(0, 255, (3, 128, 128)).astype(np.uint8)
    path = write_plain(tmp_path / "a.tif", values, gsd_m=0.625, interleave="pixel")
    with pytest.raises(RasterRefused, match=text):
        list(read_tiles(aerial_plan(path), None, limits=limits))
    assert list(read_tiles(aerial_plan(path), None))


def test_a_bomb_of_zeros_is_stopped_by_its_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=1, width=60_000, height=60_000, dtype="uint8", crs=32629,
        transform=transform_at(0.625), tiled=True, compress="deflate", SPARSE_OK=True,
    ):  # fmt: skip
        pass
    assert path.stat().st_size < 2_000_000
    with pytest.raises(RasterRefused, match="60000 x 60000 pixels"):
        list(read_tiles(aerial_plan(path, bands=["red"]), None))


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "a.tif", noise(64).astype(np.complex64))
    with pytest.raises(RasterRefused, match="complex64"):
        read(path)


def test_files_beside_it_change_nothing(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "a.tif", noise(64), nodata=0)
    before = describe(path)
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset><SRS>EPSG:4326</SRS></PAMDataset>")
    (tmp_path / "a.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    (tmp_path / "a.tif.ovr").write_bytes(b"II*\x00")
    (tmp_path / "a.tif.msk").write_bytes(b"II*\x00")
    assert describe(path) == before


# Servers.


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    write_geotiff(tmp_path / "a.tif", noise(1024), 32629, transform_at(10.0)[:6], nodata=0)
    with RangeServer(tmp_path) as running:
        yield running


def test_only_what_is_needed_is_fetched(server: RangeServer) -> None:
    report = read(server.url("a.tif"))
    assert report.read == 256
    size = (server.folder / "a.tif").stat().st_size
    server.requests.clear()

    small = write_plain(server.folder / "scl.tif", np.full((512, 512), 4, np.uint8), gsd_m=20.0)
    area = describe(small).bounds_lonlat
    assert area
    spot = shapely.box(area[0] + 0.001, area[3] - 0.003, area[0] + 0.003, area[3] - 0.002)
    reader = read_tiles(sentinel_plan({"red": server.url("a.tif")}, scl=server.url("scl.tif")), [spot], limits=QUICK)
    assert sum(len(batch) for batch in reader) > 0
    asked = 0
    for request in server.requests:
        if request.method == "GET" and request.path == "/a.tif":
            assert request.range is not None, "a whole file was asked for"
            start, end = request.range.removeprefix("bytes=").split("-")
            asked += int(end) - int(start) + 1
    assert asked < size / 2


def test_http_and_local_reading_agree(server: RangeServer) -> None:
    local = list(read_tiles(sentinel_plan({"red": server.folder / "a.tif"}), None))
    remote = list(read_tiles(sentinel_plan({"red": server.url("a.tif?sig=abc")}), None))
    for mine, theirs in zip(local, remote, strict=True):
        np.testing.assert_array_equal(mine.pixels, theirs.pixels)
        assert mine.tiles == theirs.tiles


@pytest.mark.parametrize(
    ("status", "text"),
    [(503, "HTTP 503"), (429, "HTTP 429"), (500, "HTTP 500"), (404, "is not there"), (403, "may have expired")],
)
def test_a_server_that_refuses_once_is_not_remembered(server: RangeServer, status: int, text: str) -> None:
    server.always = Fault(status=status)
    with pytest.raises(RasterUnavailable, match=text) as caught:
        read(server.url("a.tif?sig=secret"))
    assert "secret" not in str(caught.value)
    server.always = None
    assert read(server.url("a.tif")).read == 256


def test_a_server_that_fails_after_the_first_bytes(server: RangeServer) -> None:
    server.faults.extend([Fault(), *[Fault(status=503)] * 6])
    with pytest.raises(RasterUnavailable):
        read(server.url("a.tif"))
    server.faults.clear()
    assert read(server.url("a.tif")).read == 256


@pytest.mark.parametrize("good", [1, 2, 3, 4])
def test_a_connection_cut_in_mid_body(server: RangeServer, good: int) -> None:
    server.faults.extend([*[Fault()] * good, *[Fault(truncate=100)] * 20])
    with pytest.raises(RasterUnavailable):
        read(server.url("a.tif"))
    server.faults.clear()
    assert read(server.url("a.tif")).read == 256


@pytest.mark.parametrize("good", [0, 1, 4])
def test_a_server_that_stalls(server: RangeServer, good: int) -> None:
    server.faults.extend([*[Fault()] * good, *[Fault(delay_s=4.0)] * 20])
    with pytest.raises(RasterUnavailable):
        read(server.url("a.tif"))


def test_a_redirect_is_not_followed(server: RangeServer, tmp_path: Path) -> None:
    with RangeServer(tmp_path) as inner:
        server.always = Fault(status=302, headers=(("Location", inner.url("a.tif")),))
        with pytest.raises(RasterRefused, match="redirects are never followed"):
            read(server.url("a.tif"))
        assert inner.requests == []


def test_a_file_cut_off_on_the_server_is_known_for_what_it_is(server: RangeServer) -> None:
    path = server.folder / "a.tif"
    path.write_bytes(path.read_bytes()[:900_000])
    with pytest.raises(RasterCorrupt, match="is truncated"):
        read(server.url("a.tif"))


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"", RasterCorrupt), (b"<html>maintenance</html>", RasterRefused), (b"not a tiff at all", RasterCorrupt)],
)
def test_a_server_that_sends_something_else(server: RangeServer, content: bytes, error: type[VigieError]) -> None:
    (server.folder / "a.tif").write_bytes(content)
    with pytest.raises(error):
        read(server.url("a.tif"))


def test_a_file_too_large_on_the_server(server: RangeServer) -> None:
    with pytest.raises(RasterRefused, match="the limit is 1000"):
        read(server.url("a.tif"), limits=ReadLimits(max_bytes=1000))
    assert [request.method for request in server.requests] == ["GET"]


def test_a_file_replaced_under_its_name_is_read_anew(server: RangeServer) -> None:
    assert read(server.url("a.tif")).read == 256
    write_geotiff(server.folder / "a.tif", noise(512, seed=9), 32629, transform_at(10.0)[:6], nodata=0)
    assert read(server.url("a.tif")).read == 64


def test_nobody_listens() -> None:
    with pytest.raises(RasterUnavailable, match="cannot be reached"):
        read("http://127.0.0.1:9/a.tif")
