"""The command line as a user meets it: what it prints, what it exits with, and never a traceback for a mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import typer
import yaml

from daemon.cli import build, main
from daemon.clock import SystemClock
from daemon.store import Store
from engine.tiles import Float32Array
from tests.daemons import VIGIE
from tests.rasters import ORIGIN, write_plain
from tests.servers.http_range import RangeServer
from tests.small_models import BANDS, TILE_PX, parts, small_bundle
from tests.stac_builder import item, square
from tests.stores import NOON, claimed, make_alert, make_scene, ready, seen, watch

COMMANDS = {
    "demo",
    "run",
    "once",
    "score",
    "check-config",
    "migrate",
    "replay",
    "status",
    "harvest",
    "audit",
    "backfill",
    "reembed",
    "similar",
    "train",
    "card",
    "evaluate",
    "export",
}
GSD_M = 0.625


@dataclass(frozen=True, kw_only=True)
class Answer:
    code: int
    out: str
    err: str


class Shell:
    """Calls ``vigie`` in this process, in a folder of its own and without the caller's configuration."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Answer:
        self._monkeypatch.setattr(sys, "argv", ["vigie", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        told = self._capsys.readouterr()
        assert "Traceback" not in told.out + told.err
        return Answer(code=int(stopped.value.code or 0), out=told.out, err=told.err)

    def write_config(self, **sections: Any) -> Path:
        tree = {
            "catalogs": [{"name": "here", "type": "static", "url": "catalog"}],
            "areas": [{"name": "valley", "bbox": [9.4, 44.9, 9.6, 45.1]}],
            "sinks": [{"type": "jsonl", "path": "alerts.jsonl"}],
            **sections,
        }
        path = self.folder / "vigie.yaml"
        path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        return path


@pytest.fixture
def vigie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    for name in [name for name in os.environ if name.upper().startswith("VIGIE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, monkeypatch, capsys)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two bundles of the same small networks: to one every tile is strange, to the other none is."""
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    normal = rng.lognormal(0, 0.1, 500).astype(np.float32)
    for name, factor in (("strict", 1e-6), ("lax", 1e6)):
        arrays: dict[str, Float32Array] = {"odeed": (normal * factor).astype(np.float32)}
        small_bundle(folder / name, *(parts(family, calibration=arrays) for family in BANDS))
    return {name: folder / name for name in ("strict", "lax")}


@pytest.fixture
def small(vigie: Shell, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A shell whose engine is small and quick."""
    for key, value in (("BUNDLE", str(models["lax"])), ("RUNNER", "torch"), ("DEVICE", "cpu"), ("THREADS", "1")):
        monkeypatch.setenv(f"VIGIE__ENGINE__{key}", value)
    monkeypatch.setenv("VIGIE__SCORING__TILE_PX", str(TILE_PX))
    return vigie


def photo(path: Path, tiles: int = 2) -> Path:
    """An aerial image of ``tiles`` x ``tiles`` whole tiles."""
    coarse = np.random.default_rng(3).integers(20, 230, (3, tiles * 4, tiles * 4), dtype=np.uint8)
    return write_plain(path, coarse.repeat(4, axis=1).repeat(4, axis=2), gsd_m=GSD_M)


def test_every_command_is_there_and_explains_itself(vigie: Shell) -> None:
    group = typer.main.get_command(build())
    assert set(group.commands) == COMMANDS  # type: ignore[attr-defined]
    overview = vigie("--help")
    assert overview.code == 0
    for name in sorted(COMMANDS):
        assert name in overview.out
        told = vigie(name, "--help")
        assert told.code == 0
        assert f"Usage: vigie {name}" in told.out
        assert len(told.out.splitlines()) > 5


def test_version(vigie: Shell) -> None:
    told = vigie("--version")
    assert (told.code, told.out) == (0, f"vigie {version('vigie')}\n")


def test_the_console_script_says_a_mistake_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [VIGIE, "score", "no-such-file.tif"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("vigie: file ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("wrong", [("nonsense",), ("score",), ("run", "--role", "cook"), ("replay", "--faild")])
def test_wrong_usage_exits_with_2(vigie: Shell, wrong: tuple[str, ...]) -> None:
    assert vigie(*wrong).code == 2


class TestConfiguration:
    def test_a_good_file_is_printed_with_its_defaults(self, vigie: Shell, models: dict[str, Path]) -> None:
        path = vigie.write_config(engine={"bundle": str(models["lax"])})
        told = vigie("check-config", "--config", path)
        assert told.code == 0
        values = yaml.safe_load(told.out)
        assert values["areas"][0]["name"] == "valley"
        assert values["worker"]["lease_s"] == 300.0
        assert values["sinks"][0]["path"] == str(vigie.folder / "alerts.jsonl")
        assert "usable; model small" in told.err
        as_json = vigie("check-config", "--config", path, "--json")
        assert json.loads(as_json.out) == values

    def test_the_environment_overrides_the_file(
        self, vigie: Shell, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = vigie.write_config(engine={"bundle": str(models["lax"])})
        monkeypatch.setenv("VIGIE_CONFIG", str(path))
        monkeypatch.setenv("VIGIE__HTTP__PORT", "9500")
        monkeypatch.setenv("VIGIE__AREAS__0__NAME", "hills")
        values = json.loads(vigie("check-config", "--json").out)
        assert (values["http"]["port"], values["areas"][0]["name"]) == (9500, "hills")

    def test_a_misspelt_key_is_named_with_its_line_and_the_right_one(self, vigie: Shell) -> None:
        path = vigie.write_config(worker={"leese_s": 10})
        told = vigie("check-config", "-c", path)
        line = path.read_text().splitlines().index("  leese_s: 10") + 1
        assert told.code == 1
        assert f"vigie.yaml:{line}:" in told.err
        assert "lease_s" in told.err

    def test_a_wrong_variable_is_named(self, vigie: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        path = vigie.write_config()
        monkeypatch.setenv("VIGIE__HTTP__PORT", "many")
        told = vigie("check-config", "-c", path)
        assert told.code == 1
        assert "VIGIE__HTTP__PORT" in told.err

    def test_a_bundle_that_is_not_there_is_found_before_a_night_is_lost(self, vigie: Shell) -> None:
        path = vigie.write_config(engine={"bundle": "basse"})
        told = vigie("check-config", "-c", path)
        assert told.code == 1
        assert "basse" in told.err

    @pytest.mark.parametrize("command", ["run", "check-config"])
    def test_nothing_to_watch_is_an_error(self, vigie: Shell, command: str) -> None:
        told = vigie(command)
        assert told.code == 1
        assert "no catalogs, areas, sinks" in told.err

    @pytest.mark.parametrize("command", ["run", "check-config", "migrate", "status"])
    def test_a_file_that_is_not_there_is_an_error(self, vigie: Shell, command: str) -> None:
        told = vigie(command, "--config", "nowhere.yaml")
        assert told.code == 1
        assert "nowhere.yaml" in told.err

    def test_paths_that_are_not_given_lie_beside_the_file(self, vigie: Shell, models: dict[str, Path]) -> None:
        folder = vigie.folder / "etc"
        folder.mkdir()
        path = vigie.write_config(engine={"bundle": str(models["lax"])}).rename(folder / "vigie.yaml")
        values = json.loads(vigie("check-config", "-c", path, "--json").out)
        assert values["store"]["url"] == f"sqlite:///{folder / 'vigie.db'}"
        assert values["cache_dir"] == str(Path("~/.cache/vigie").expanduser())

    def test_passwords_are_not_printed(self, vigie: Shell, models: dict[str, Path]) -> None:
        path = vigie.write_config(
            engine={"bundle": str(models["lax"])}, store={"url": "postgresql://vigie:sesame@db.example.org/vigie"}
        )
        told = vigie("check-config", "-c", path)
        assert told.code == 0
        assert "sesame" not in told.out + told.err
        assert "db.example.org" in told.out


class TestStore:
    def fill(self, folder: Path) -> None:
        """One scene that failed for good, one that was scored, one parked alert."""
        with Store.open(f"sqlite:///{folder / 'vigie.db'}", clock=SystemClock()) as store:
            store.migrate()
            watch(store, "north", "south")
            ready(store, seen(make_scene("bad"), "north"), seen(make_scene("good"), "south"))
            for _ in range(2):
                claim = claimed(store)
                if claim.scene.item_id == "bad":
                    store.fail(claim, "RasterCorrupt: the file is damaged", None)
                else:
                    with store.finish(claim) as ending:
                        ending.put_alert(make_alert("parked"))
                        ending.done("scored", stats={"alerts": 1})
            lease = store.hold_lease("relay", "test", 60)
            assert lease is not None
            store.park(lease, store.outbox_batch(1)[0].seq, "too large")

    def test_migrating_twice_is_safe(self, vigie: Shell) -> None:
        for _ in range(2):
            told = vigie("migrate")
            assert (told.code, told.out) == (0, "The database has this version's schema.\n")
        assert vigie("status").code == 0

    def test_a_store_that_is_not_migrated_says_what_to_do(self, vigie: Shell) -> None:
        told = vigie("status")
        assert told.code == 1
        assert "vigie migrate" in told.err

    def test_a_store_that_cannot_be_opened_is_named(self, vigie: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VIGIE__STORE__URL", "sqlite:///no/such/folder/vigie.db")
        (vigie.folder / "no").write_text("a file where a folder is wanted")
        told = vigie("migrate")
        assert told.code == 1
        assert "vigie.db" in told.err

    def test_status_shows_what_became_of_each_scene(self, vigie: Shell) -> None:
        self.fill(vigie.folder)
        told = vigie("status")
        assert told.code == 0
        assert "2 scenes" in told.out
        rows = {name: line for line in told.out.splitlines() for name in ("bad", "good") if f" {name} " in line}
        assert "north (fresh)" in rows["bad"]
        assert "failed" in rows["bad"]
        assert "the file is damaged" in rows["bad"]
        assert "scored" in rows["good"]
        assert f"{NOON:%Y-%m-%d %H:%M}" in rows["good"]
        assert "0 alerts wait to be published, 1 are parked." in told.out

    def test_replaying_nothing_is_an_error(self, vigie: Shell) -> None:
        told = vigie("replay")
        assert told.code == 1
        assert "--failed" in told.err

    def test_replaying_what_is_not_there_changes_nothing(self, vigie: Shell) -> None:
        self.fill(vigie.folder)
        told = vigie("replay", "good", "goood")
        assert told.code == 1
        assert "no scene goood;" in told.err
        with Store.open(f"sqlite:///{vigie.folder / 'vigie.db'}", clock=SystemClock()) as store:
            assert {row.scene.item_id: row.state for row in store.scenes()} == {"bad": "failed", "good": "done"}

    @pytest.mark.parametrize("chosen", [("--failed",), ("bad",), (make_scene("bad").scene_id,)])
    def test_a_replay_takes_a_failed_scene_up_again(self, vigie: Shell, chosen: tuple[str, ...]) -> None:
        self.fill(vigie.folder)
        told = vigie("replay", *chosen)
        assert told.code == 0
        assert told.out.splitlines() == [
            "1 scene will be scored again.",
            "1 parked alert will be offered to the sinks again.",
        ]
        with Store.open(f"sqlite:///{vigie.folder / 'vigie.db'}", clock=SystemClock()) as store:
            assert {row.scene.item_id: row.state for row in store.scenes()} == {"bad": "pending", "good": "done"}


class TestScore:
    def test_a_table(self, small: Shell) -> None:
        photo(small.folder / "photo.tif")
        told = small("score", "photo.tif")
        assert told.code == 0
        for words in ("photo.tif", "aerial-rgb, grid EPSG:32629 at 0.625 m", "4 scored of 4", "no SWIR or NIR band"):
            assert words in told.out
        assert "0 tiles, 0 detections" in told.out

    def test_json_of_a_strange_image(
        self, small: Shell, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VIGIE__ENGINE__BUNDLE", str(models["strict"]))
        told = small("score", photo(small.folder / "photo.tif"), "--json")
        assert told.code == 0
        result = json.loads(told.out)
        assert result["tiles"] == {"total": 4, "scored": 4, "skipped": {}}
        assert result["flagged_tiles"] == 4
        (found,) = result["detections"]
        assert found["kind"] == "anomaly"  # three colours cannot tell water
        assert found["calibration"] == "sensor"
        assert found["area_m2"] == pytest.approx(4 * (TILE_PX * GSD_M) ** 2)
        assert result["water_share"] is None
        assert result["odeed"]["low"] <= result["odeed"]["median"] <= result["odeed"]["high"]

    def test_a_heat_map_lies_on_the_image_and_averages_to_the_scores(self, small: Shell) -> None:
        image = photo(small.folder / "photo.tif", tiles=1)
        told = small("score", image, "--heat-map", "heat.tif", "--json")
        assert told.code == 0
        with rasterio.open(small.folder / "heat.tif") as heat, rasterio.open(image) as original:
            assert (heat.crs, heat.bounds, heat.shape) == (original.crs, original.bounds, original.shape)
            assert heat.read(1).mean(dtype=np.float64) == pytest.approx(
                json.loads(told.out)["odeed"]["median"], rel=1e-4
            )

    def test_a_heat_map_that_cannot_be_written_is_refused_at_once(self, small: Shell) -> None:
        told = small("score", photo(small.folder / "photo.tif"), "--heat-map", "nowhere/heat.tif")
        assert told.code == 1
        assert "nowhere" in told.err

    def test_a_sensor_by_name(self, small: Shell) -> None:
        image = np.full((3, 32, 32), 2000, np.uint16)
        path = write_plain(small.folder / "three.tif", image, gsd_m=10.0, descriptions=["a", "b", "c"])
        unknown = small("score", path)
        assert unknown.code == 1
        assert "--sensor" in unknown.err
        wrong = small("score", path, "--sensor", "sentinel-9")
        assert wrong.code == 1
        assert "sentinel-2-l2a" in wrong.err
        lacking = small("score", path, "--sensor", "sentinel-2-l2a")
        assert lacking.code == 1
        assert "no band" in lacking.err

    def test_ten_metres_and_water(self, small: Shell) -> None:
        names = ["red", "nir", "swir16"]
        image = np.stack([np.full((32, 32), dn, np.uint16) for dn in (1500, 3000, 2500)])
        image[:, :, 16:] = np.array([800, 400, 100], np.uint16)[:, None, None]  # the eastern half is water
        path = write_plain(small.folder / "scene.tif", image, gsd_m=10.0)
        with rasterio.open(path, "r+") as dataset:
            for index, name in enumerate(names, start=1):
                dataset.set_band_description(index, name)
        told = small("score", path, "--json")
        assert told.code == 0
        result = json.loads(told.out)
        assert result["sensor"] == "sentinel-2-l2a"
        assert result["water_share"] == pytest.approx(0.5)

    def test_nothing_but_nodata_is_told_not_scored(self, small: Shell) -> None:
        path = write_plain(small.folder / "empty.tif", np.zeros((3, 32, 32), np.uint8), gsd_m=GSD_M, nodata=0)
        told = small("score", path, "--json")
        assert told.code == 0
        result = json.loads(told.out)
        assert result["tiles"] == {"total": 4, "scored": 0, "skipped": {"nodata": 4}}
        assert result["smallest_p_value"] is None
        assert small("score", path).code == 0

    @pytest.mark.parametrize(
        ("content", "words"), [(b"", "is empty"), (b"<VRTDataset/>", "virtual rasters"), (b"hello", "not a GeoTIFF")]
    )
    def test_what_is_no_image_is_refused(self, small: Shell, content: bytes, words: str) -> None:
        (small.folder / "bad.tif").write_bytes(content)
        told = small("score", "bad.tif")
        assert told.code == 1
        assert words in told.err

    def test_an_image_without_a_place_is_refused(self, small: Shell) -> None:
        path = write_plain(small.folder / "lost.tif", np.full((3, 32, 32), 9, np.uint8), crs=None)
        told = small("score", path)
        assert told.code == 1
        assert "without CRS" in told.err


class TestOnce:
    def write_item(self, folder: Path, href: str) -> Path:
        lon, lat = -9.36, 52.95
        bands = [{"name": name, "common_name": name} for name in ("red", "green", "blue")]
        document = item(
            "flight-7",
            collection="flights",
            when="2024-05-06T10:11:12Z",
            geometry=square(lon, lat),
            assets={"image": {"href": href, "eo:bands": bands, "roles": ["data"]}},
            gsd=GSD_M,
        )
        path = folder / "flight-7.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        return path

    def test_an_item_of_this_machine(self, small: Shell) -> None:
        photo(small.folder / "photo.tif")
        path = self.write_item(small.folder, "./photo.tif")
        config = small.write_config(access={"local_roots": ["."]})
        told = small("once", path, "--config", config, "--json")
        assert told.code == 0, told.err
        result = json.loads(told.out)
        assert (result["name"], result["sensor"], result["tiles"]["scored"]) == ("flight-7", "aerial-rgb", 4)

    def test_a_file_outside_the_allowed_folders_is_refused(self, small: Shell) -> None:
        photo(small.folder / "photo.tif")
        told = small("once", self.write_item(small.folder, "./photo.tif"))
        assert told.code == 1
        assert "access.local_roots" in told.err

    def test_an_item_of_a_server(self, small: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = small.folder / "served"
        folder.mkdir()
        photo(folder / "photo.tif")
        self.write_item(folder, "./photo.tif")
        with RangeServer(folder) as server:
            url = server.url("flight-7.json")
            refused = small("once", url, "--json")
            assert refused.code == 1
            assert "access.http_hosts" in refused.err
            monkeypatch.setenv("VIGIE__ACCESS__HTTP_HOSTS", json.dumps([server.host]))
            told = small("once", url, "--json")
            assert told.code == 0, told.err
            assert json.loads(told.out)["tiles"]["scored"] == 4
            missing = small("once", server.url("none.json"))
            assert missing.code == 1
            assert "404" in missing.err

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"type": "Feature", "id": "x"}'])
    def test_what_is_no_item_is_refused(self, small: Shell, content: str) -> None:
        (small.folder / "item.json").write_text(content)
        told = small("once", "item.json")
        assert told.code == 1
        assert told.err.startswith("vigie: ")

    def test_an_item_that_is_not_there_is_refused(self, small: Shell) -> None:
        told = small("once", "item.json")
        assert told.code == 1
        assert "item.json cannot be read" in told.err


def test_the_origin_of_test_images_is_a_corner_of_a_small_tile() -> None:
    """Else the counts of tiles above would mean nothing."""
    assert all(metres % (TILE_PX * GSD_M) == 0 for metres in ORIGIN)
    assert all(metres % (TILE_PX * 10.0) == 0 for metres in ORIGIN)
