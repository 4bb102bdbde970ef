"""``kill -9`` at random moments and a restart give the same alerts as an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from shapely.geometry import mapping

from daemon.clock import SystemClock
from daemon.demo.scenes import DemoPlace, build_demo
from daemon.store import Store
from engine.grid import Cell, union_lonlat
from tests.daemons import DaemonFolder

ROUNDS = int(os.environ.get("VIGIE_KILL_ROUNDS", "2"))
KILLS = 3
SEED = int(os.environ.get("VIGIE_KILL_SEED", "20261124"))

# Twenty of the valley's cells, nine of which are flooded: few enough to be scored again and again.
GROUND = union_lonlat(
    tuple(
        Cell(epsg=32632, level=0, tile_px=64, col=col, row=row) for col in range(842, 846) for row in range(7785, 7790)
    )
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> DemoPlace:
    return build_demo(tmp_path_factory.mktemp("place"), only=("clear", "flood"))


def folder_of(path: Path, place: DemoPlace) -> DaemonFolder:
    home = DaemonFolder(folder=path)
    home.write_config(
        {
            "store": {"url": "sqlite:///vigie.db"},
            "cache_dir": str(place.folder / "cache"),
            "catalogs": [{"name": "simulated", "type": "static", "url": str(place.catalog.parent), "poll_every_s": 1}],
            "areas": [
                {
                    "name": "valley",
                    "geometry": mapping(GROUND.buffer(-1e-4)),
                    "alert_since": place.alert_since.isoformat(),
                }
            ],
            "access": {"local_roots": [str(place.catalog.parent)]},
            "worker": {"lease_s": 2},
            "sinks": [{"type": "jsonl", "path": "alerts.jsonl"}],
            "http": {"enabled": False},
            "log": {"format": "json"},
        }
    )
    return home


def ids(home: DaemonFolder) -> set[str]:
    return {event["id"] for event in home.events()}


def states(home: DaemonFolder) -> set[str]:
    with Store.open(f"sqlite:///{home.folder / 'vigie.db'}", clock=SystemClock()) as store:
        return {row.state for row in store.scenes()}


@pytest.fixture(scope="module")
def undisturbed(place: DemoPlace, tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], float]:
    """The alert ids of a run that nothing disturbs, and how long it took."""
    home = folder_of(tmp_path_factory.mktemp("undisturbed"), place)
    home.run_until_idle()  # Fills the cache of graphs, so that the time of the next is that of later runs.
    again = folder_of(tmp_path_factory.mktemp("again"), place)
    began = time.monotonic()
    again.run_until_idle()
    took_s = time.monotonic() - began
    assert ids(home) == ids(again)
    assert len(ids(home)) >= 1, "the flood of the demo raises an alert"
    return ids(home), took_s


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(ROUNDS))
def test_killed_at_random_moments_the_alert_ids_are_the_same(
    number: int, place: DemoPlace, undisturbed: tuple[set[str], float], tmp_path: Path
) -> None:
    expected, took_s = undisturbed
    rng = random.Random(SEED + number)
    home = folder_of(tmp_path, place)
    moments = []
    for _ in range(KILLS):
        # From start-up to just past the end, where alerts are sent and marked.
        moment = rng.uniform(0.1, 1.1) * took_s
        moments.append(round(moment, 2))
        process = home.start("--until-idle")
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    home.run_until_idle()
    assert ids(home) == expected, f"killed after {moments} s (seed {SEED + number}):\n{home.tail()}"
    assert states(home) == {"done"}
    contents: dict[str, object] = {}
    for event in home.events():
        assert contents.setdefault(event["id"], event) == event, "a repeat is the same event"


def test_sigterm_hands_the_scene_back_and_the_next_run_finishes(
    place: DemoPlace, undisturbed: tuple[set[str], float], tmp_path: Path
) -> None:
    expected, took_s = undisturbed
    home = folder_of(tmp_path, place)
    process = home.start()
    time.sleep(0.6 * took_s)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, home.tail()
    assert "claimed" not in states(home)
    home.run_until_idle()
    assert ids(home) == expected
