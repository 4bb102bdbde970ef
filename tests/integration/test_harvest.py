"""Catalog to shards to pairs to training, on a local catalog of two sensors over one area."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from daemon.commands.harvest import harvest
from daemon.errors import HarvestInvalid
from daemon.harvest import reading
from engine.grid import Cell, to_lonlat
from engine.shards import read_shard
from tests.rasters import ORIGIN, transform_at, write_plain
from tests.stac_builder import item, write_static_catalog
from training.cli.train_xstars import xstars

SIDE_M = 320
SQUARES = 4
"""Squares of ground from west to east, and from north to south."""
BANDS = ("red", "green", "blue")


def ground(px: int) -> np.ndarray:
    """Where it is, as a fraction of the area: eastwards, southwards, and their mean, 0.1 to 0.9.  (3, H, W)"""
    at = 0.1 + 0.8 * (np.arange(px) + 0.5) / px
    east, south = np.meshgrid(at, at)
    return np.stack([east, south, (east + south) / 2])


def footprint() -> Mapping[str, Any]:
    from shapely.geometry import box, mapping

    west, north = ORIGIN
    return mapping(to_lonlat(box(west, north - SQUARES * SIDE_M, west + SQUARES * SIDE_M, north), 32629))


def write_catalog(root: Path) -> Path:
    """Sentinel-2 on days 1, 3 and 40, and an aerial image of 2.5 m on day 2."""
    items = []
    px = SQUARES * SIDE_M // 10
    for day, month in ((1, 6), (3, 6), (10, 7)):
        when = f"2021-{month:02}-{day:02}"
        folder = root / "rasters" / when
        folder.mkdir(parents=True)
        assets: dict[str, Any] = {}
        for band, values in zip(BANDS, ground(px), strict=True):
            write_plain(folder / f"{band}.tif", np.rint(values * 10_000 + 1000).astype(np.uint16), nodata=0)
            assets[band] = {
                "href": str(folder / f"{band}.tif"),
                "eo:bands": [{"name": band, "common_name": band}],
                "raster:bands": [{"scale": 0.0001, "offset": -0.1}],
            }
        classes = np.full((px // 2, px // 2), 4, np.uint8)
        if day == 3:
            # Cloud over the north-western square.
            classes[:8, :8] = 9
        write_plain(folder / "scl.tif", classes, gsd_m=20.0)
        assets["scl"] = {"href": str(folder / "scl.tif")}
        entry = item(
            f"s2-{when}", collection="sentinel-2-l2a", when=f"{when}T11:00:00Z", geometry=footprint(), assets=assets
        )
        entry["properties"].update({"s2:processing_baseline": "05.11", "platform": "sentinel-2a", "gsd": 10})
        items.append(entry)
    photo = np.rint(ground(SQUARES * SIDE_M * 2 // 5) * 255).astype(np.uint8)
    (root / "rasters" / "flown").mkdir()
    write_plain(root / "rasters" / "flown" / "image.tif", photo, transform=transform_at(2.5))
    asset = {
        "href": str(root / "rasters" / "flown" / "image.tif"),
        "eo:bands": [{"name": band, "common_name": band} for band in BANDS],
    }
    items.append(
        item(
            "flown",
            collection="flown",
            when="2021-06-02T12:00:00Z",
            geometry=footprint(),
            assets={"image": asset},
            vigie__sensor="aerial-rgb",
        )
    )
    return write_static_catalog(root / "catalog", items)


def run(catalog: Path, out: Path, *more: str, code: int = 0) -> dict[str, Any]:
    """Run ``vigie harvest`` in this process; its JSON."""
    app = typer.Typer()
    app.command()(harvest)
    arguments = ["--out", str(out), "--catalog", str(catalog), "--bbox", "-9.5,52.8,-9.2,53.1"]
    arguments += ["--allow-folder", str(catalog.parent.parent), "--from", "2021-06-01", "--to", "2021-07-31"]
    arguments += ["--collection", "sentinel-2-l2a", "--collection", "flown", "--bands", "sentinel-2-l2a=red,green,blue"]
    arguments += ["--side", str(SIDE_M), "--min-clear", "0.9", *more]
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalog(tmp_path_factory.mktemp("stac"))


def files(out: Path) -> dict[str, tuple[object, ...]]:
    """Everything that the shards say."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(out.rglob("*.safetensors")):
        shard = read_shard(path)
        found[path.relative_to(out).as_posix()] = (shard.facts, shard.rows, shard.tiles.dtype, shard.tiles.tobytes())
    return found


def test_two_collections_become_pairs_that_an_encoder_trains_on(catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "harvest"
    found = run(catalog, out)
    # July has no flight within five days, and on day 3 one square of sixteen lies under cloud.
    assert found["scenes"] == {"flown": 1, "sentinel-2-l2a": 2}
    assert found["tiles"] == {"flown": 16, "sentinel-2-l2a": 31}
    assert found["skipped"] == {"cloud": 1}
    counts = {tuple(each["collections"]): (each["pairs"], each["median_days"]) for each in found["pairs"]}
    assert counts["sentinel-2-l2a", "sentinel-2-l2a"] == (15, 2.0)
    assert counts["flown", "sentinel-2-l2a"][0] == 31

    for path in out.rglob("*.safetensors"):
        shard = read_shard(path)
        assert shard.facts.bands == BANDS
        assert shard.facts.within_days == 5.0
        for tile, row in zip(shard.tiles, shard.rows, strict=True):
            # The border of a scene and what is near a cloud are not trusted.
            clear = tile.max(axis=0) > 0
            assert clear.mean() >= 0.9
            found_here = (tile * shard.facts.gain[0])[:, clear]
            np.testing.assert_allclose(found_here, truth(row.cell)[:, clear], atol=0.5 / 255 + 1e-6)

    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    app = typer.Typer()
    app.command()(xstars)
    arguments = ["--pairs", f"shards={out}", "--preset-file", str(tmp_path / "small.json"), "--steps", "2"]
    arguments += ["--out", str(tmp_path / "run"), "--threads", "1", "--device", "cpu"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "31 pairs of flown and sentinel-2-l2a, 1.0 to 1.0 days apart" in result.output.replace("\n", " ")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["pairs"] == [["flown", "sentinel-2-l2a"], ["sentinel-2-l2a", "sentinel-2-l2a-earlier"]]
    assert config["last_losses"]["msad"] > 0


SMALL = {
    "vit": {"img_size": 16, "patch_size": 8, "dim": 24, "depth": 1, "heads": 2},
    "tile_px": 16,
    "source_px": 24,
    "local_px": 8,
    "local_crops": 1,
    "head_hidden": 16,
    "bottleneck": 8,
    "prototypes": 32,
    "msad_dim": 16,
    "batch": 4,
    "pairs": 4,
}


def truth(cell: Cell) -> np.ndarray:
    """What :func:`ground` is in a cell.  (3, H, W)"""
    west, _, _, north = cell.bounds
    at = (np.arange(cell.tile_px) + 0.5) * cell.gsd_m
    east, south = np.meshgrid(west - ORIGIN[0] + at, ORIGIN[1] - north + at)
    shares = [0.1 + 0.8 * metres / (SQUARES * SIDE_M) for metres in (east, south)]
    return np.stack([*shares, sum(shares) / 2])


def test_a_stopped_harvest_goes_on_with_what_is_missing(catalog: Path, tmp_path: Path) -> None:
    run(catalog, tmp_path / "whole", "--tiles", "5")
    whole = files(tmp_path / "whole")
    out = tmp_path / "stopped"
    run(catalog, out, "--tiles", "5")
    assert files(out) == whole
    # As a kill leaves it: one scene half written, its outcome missing; a leftover of more parts than it has now.
    (outcome,) = (out / "sentinel-2-l2a").glob("s2-2021-06-03*.json")
    outcome.unlink()
    half = next((out / "sentinel-2-l2a").glob("s2-2021-06-03*.safetensors"))
    half.write_bytes(half.read_bytes()[:100])
    half.with_name(half.name.replace("-000", "-001")).write_bytes(b"left over")
    done = next((out / "flown").glob("*.safetensors"))
    stamp = done.stat().st_mtime_ns
    found = run(catalog, out, "--tiles", "5")
    assert files(out) == whole
    assert done.stat().st_mtime_ns == stamp
    assert found["tiles"]["flown"] == 5
    # All is done: the catalog is not even asked.
    elsewhere = tmp_path / "empty"
    elsewhere.mkdir()
    again = run(elsewhere, out, "--tiles", "5")
    assert again == found
    with pytest.raises(HarvestInvalid, match="holds a harvest of other tiles"):
        run(catalog, out, "--tiles", "6")


def test_a_large_scene_is_cut_into_several_files(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(catalog, tmp_path / "whole", "--tiles", "3")
    monkeypatch.setattr(reading, "BATCH_BYTES", 1)
    monkeypatch.setattr(reading, "SHARD_BYTES", 1)
    run(catalog, tmp_path / "cut", "--tiles", "3")
    whole, cut = (
        [read_shard(path) for path in sorted((tmp_path / name / "flown").glob("*.safetensors"))]
        for name in ("whole", "cut")
    )
    assert [len(shard.rows) for shard in cut] == [1, 1, 1]
    assert tuple(row for shard in cut for row in shard.rows) == whole[0].rows
    np.testing.assert_array_equal(np.concatenate([shard.tiles for shard in cut]), whole[0].tiles)


def test_what_may_not_be_read_is_told_and_tried_again(catalog: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(harvest)
    arguments = ["--out", str(tmp_path / "refused"), "--catalog", str(catalog), "--bbox", "-9.5,52.8,-9.2,53.1"]
    arguments += ["--from", "2021-06-01", "--to", "2021-07-31", "--collection", "flown"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 1
    assert "AccessRefused" in json.loads(result.stdout)["failures"]["flown/flown"]
    result = CliRunner().invoke(app, [*arguments, "--allow-folder", str(catalog.parent.parent)], catch_exceptions=False)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["tiles"] == {"flown": 4}  # 640 m each


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "2021-13-01"), "is no date"),
        (("--from", "2021-06-01T00:00:00"), "names no zone"),
        (("--area", "nowhere.geojson"), "either --area or --bbox"),
        (("--bands", "red"), "write COLLECTION=VALUE"),
    ],
)
def test_wrong_options_say_what_is_wrong(options: tuple[str, str], message: str, catalog: Path, tmp_path: Path) -> None:
    with pytest.raises(HarvestInvalid, match=message):
        run(catalog, tmp_path / "out", *options)
