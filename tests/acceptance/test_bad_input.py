"""The daemon as it is shipped, on bad catalogs, bad files, a bad configuration, a bad bundle and a broker that is away.

Each must cost what is bad and nothing else: the good scenes beside it are scored, and a message says what to do.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from shapely.geometry import box, mapping

from daemon.demo.place import EPSG, NORTH_M, WEST_M
from daemon.demo.scenes import DemoPlace
from daemon.kafka_local import LocalBroker
from engine.bundle import bundled
from engine.grid import to_lonlat
from tests.acceptance.outcomes import outbox, scene_ends, table
from tests.acceptance.spoilt import good_item, spoilt_scenes
from tests.consumer import distinct, in_order, read_topic
from tests.daemons import VIGIE, DaemonFolder
from tests.servers import bad_stac as bad
from tests.servers.bad_stac import BadStac
from tests.servers.http_range import RangeServer
from tests.servers.kafka import OUTAGE
from tests.stac_builder import write_static_catalog

pytestmark = pytest.mark.timeout(900)

# Two by two cells on the river, which the flood covers.
PLACE = mapping(
    to_lonlat(box(WEST_M + 10, NORTH_M - 5 * 640 + 10, WEST_M + 2 * 640 - 10, NORTH_M - 3 * 640 - 10), EPSG)
)


def valley(place: DemoPlace, name: str = "valley", catalogs: str | list[str] = "all") -> dict[str, Any]:
    """A small part of the simulated place, two months of history before its flood."""
    since = place.flood_time - timedelta(days=5)
    return {
        "name": name,
        "geometry": PLACE,
        "alert_since": since.isoformat(),
        "history_days": 60,
        "catalogs": catalogs,
    }


def configuration(place: DemoPlace, cache: Path, **sections: Any) -> dict[str, Any]:
    """A daemon on the simulated place; ``sections`` replace or add."""
    return {
        "store": {"url": "sqlite:///vigie.db"},
        "cache_dir": str(cache),
        "catalogs": [{"name": "simulated", "type": "static", "url": str(place.catalog.parent)}],
        "areas": [valley(place)],
        "access": {"local_roots": [str(place.catalog.parent)]},
        "sinks": [{"type": "jsonl", "path": "alerts.jsonl"}],
        "http": {"enabled": False},
        "log": {"format": "json"},
        **sections,
    }


def log_of(home: DaemonFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in home.log.read_text(encoding="utf-8").splitlines()]


def vigie(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([VIGIE, *arguments], capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def whole(simulated: DemoPlace) -> Iterator[RangeServer]:
    """Serves the files of the simulated place."""
    with RangeServer(simulated.catalog.parent) as server:
        yield server


def test_bad_files_and_bad_catalogs_cost_only_themselves(
    simulated: DemoPlace,
    graphs: Path,
    whole: RangeServer,
    bad_stac: Callable[[list[dict[str, Any]]], BadStac],
    tmp_path: Path,
) -> None:
    (flood,) = simulated.of_kind("flood")
    *_, second_last, last = simulated.of_kind("clear")
    broken_always = bad_stac([good_item(simulated, flood, whole)])
    broken_always.script = [bad.status(500), bad.status(429, Retry_After="1")]
    broken_always.usual = bad.html_200
    recovers = bad_stac([good_item(simulated, second_last, whole)])
    recovers.script = [bad.status(500), bad.status(429, Retry_After="1")]
    (tmp_path / "archive").mkdir()
    with RangeServer(tmp_path / "archive") as archive:
        spoilt = spoilt_scenes(simulated, flood, whole, archive)
        good = [good_item(simulated, each, whole) for each in (last, flood)]
        garbage = {**good[0], "id": "garbage"}
        # Good ones at both ends: what comes behind bad ones is reached.
        write_static_catalog(archive.folder, [good[0], garbage, *(scene.item for scene in spoilt), good[1]])
        (garbage_file,) = archive.folder.glob("*/garbage.json")
        garbage_file.write_text('{"type": "Feature", "id": "garb')
        home = DaemonFolder(folder=tmp_path / "daemon")
        home.write_config(
            configuration(
                simulated,
                graphs,
                catalogs=[
                    {"name": "archive", "type": "static", "url": archive.url("catalog.json")},
                    {"name": "recovers", "type": "stac-api", "url": recovers.url, "collections": [flood.collection]},
                    {"name": "broken", "type": "stac-api", "url": broken_always.url, "collections": [flood.collection]},
                ],
                # All of them list this one area: the catalog that never answers must not keep the others' scenes back.
                areas=[valley(simulated, catalogs=["archive", "recovers", "broken"])],
                access={"http_hosts": [archive.host, whole.host]},
                worker={"max_attempts": 2, "retry_base_s": 0.5},
            )
        )
        home.run_until_idle(timeout_s=600)
    ends = scene_ends(f"sqlite:///{home.folder / 'vigie.db'}")
    told = table(ends)
    expected_good = {second_last.item_id, last.item_id, flood.item_id}
    assert set(ends) == expected_good | {scene.item["id"] for scene in spoilt}, told
    for name in expected_good:
        assert (ends[name].how, ends[name].reason) == ("scored", ""), told
    for scene in spoilt:
        end = ends[scene.item["id"]]
        assert end.how == scene.how, f"{end.item}{told}"
        assert re.search(scene.why, end.reason), f"{end.item}{told}"
    log = log_of(home)
    # Whoever reads only the log learns it too.
    failures = {line["item"]: line["error"] for line in log if line.get("action") == "scene.failed"}
    assert failures == {name: end.reason for name, end in ends.items() if end.how == "failed"}
    passed_over = [line["message"] for line in log if "garbage.json" in line["message"]]
    assert len(passed_over) == 1, "once, not at every poll"
    assert "not JSON" in passed_over[0]
    of_broken = [line for line in log if line.get("catalog") == "broken" and line["level"] == "warning"]
    ended_early = [line for line in of_broken if line["action"] == "poll"]
    assert [line["action"] for line in of_broken if line not in ended_early] == ["catalog.excused"]
    # The stop at the end may catch a poll in its middle, which says so.
    ended_early = [line for line in ended_early if "was stopped" not in line["message"]]
    assert ended_early
    assert all("not JSON" in line["message"] and "We are down" in line["message"] for line in ended_early), ended_early
    assert not [line for line in log if line.get("catalog") == "recovers" and line["level"] != "info"]
    assert not [line for line in log if "exception" in line], "no traceback: all of this was foreseen"
    assert {event["data"]["properties"]["scene"]["item_id"] for event in home.events()} == {flood.item_id}


def test_a_misspelt_key_is_named_with_its_line_and_the_right_word(
    simulated: DemoPlace, graphs: Path, tmp_path: Path
) -> None:
    home = DaemonFolder(folder=tmp_path)
    home.write_config(configuration(simulated, graphs))
    assert vigie("check-config", "--config", str(home.config)).returncode == 0
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(text.replace("alert_since:", "alerts_since:"), encoding="utf-8")
    line = 1 + next(i for i, row in enumerate(text.splitlines()) if "alert_since:" in row)
    for command in ("check-config", "run"):
        done = vigie(command, "--config", str(home.config))
        assert done.returncode == 1
        where = rf"^vigie: {re.escape(str(home.config))}:{line}:\d+: areas\[0\]\.alerts_since"
        assert re.search(rf"{where}: unknown key; did you mean 'alert_since'\?$", done.stderr, re.MULTILINE), (
            done.stderr
        )
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
    assert not (home.folder / "vigie.db").exists()


def test_a_bundle_with_a_flipped_byte_is_not_run(simulated: DemoPlace, graphs: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(bundled("base"), bundle)
    weights = bundle / "encoder.safetensors"
    altered = bytearray(weights.read_bytes())
    altered[len(altered) // 2] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(altered)
    home = DaemonFolder(folder=tmp_path / "daemon")
    home.write_config(configuration(simulated, graphs, engine={"bundle": str(bundle)}))
    done = vigie("run", "--config", str(home.config), "--until-idle")
    assert done.returncode == 1
    assert f"{weights} was altered: sha256 " in done.stderr
    assert "fetch the bundle again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (home.folder / "alerts.jsonl").exists()


@pytest.mark.server
@OUTAGE
def test_alerts_wait_for_a_broker_that_is_down_at_start(
    simulated: DemoPlace, graphs: Path, kafka_broker: LocalBroker, tmp_path: Path
) -> None:
    kafka_broker.stop()
    topic = f"vigie.test.{uuid.uuid4().hex[:12]}"
    home = DaemonFolder(folder=tmp_path)
    sink = {"type": "kafka", "bootstrap_servers": [kafka_broker.bootstrap], "topic": topic}
    home.write_config(configuration(simulated, graphs, sinks=[sink]))
    url = f"sqlite:///{home.folder / 'vigie.db'}"
    process = home.start("--until-idle")
    try:
        deadline = time.monotonic() + 400
        while sum('"scene.scored"' in line for line in home.log.read_text().splitlines()) < 4:
            assert process.poll() is None, f"it must wait for the broker\n{home.tail()}"
            assert time.monotonic() < deadline, home.tail()
            time.sleep(0.5)
        time.sleep(2.0)
        assert process.poll() is None, "with alerts unsent it is not idle"
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0, home.tail()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    waiting = outbox(url)
    assert waiting, table(scene_ends(url))
    assert all(row.sent_at is None and row.parked_at is None for row in waiting)
    warnings = [line["message"] + line.get("error", "") for line in log_of(home) if line["level"] == "warning"]
    assert any(kafka_broker.bootstrap in text and "broker runs" in text for text in warnings), home.tail()
    kafka_broker.start()
    home.run_until_idle()
    received = read_topic(kafka_broker.bootstrap, topic)
    assert {message.event_id for message in received} == {row.alert.alert_id for row in waiting}
    assert len(distinct(received)) == len(received)
    assert in_order(received)
    assert [row.alert for row in outbox(url)] == [row.alert for row in waiting], "nothing was scored anew"
    assert all(row.sent_at is not None for row in outbox(url))
