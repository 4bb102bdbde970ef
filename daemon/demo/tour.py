"""The demo from end to end: simulate, watch, score, publish, read back, draw."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from daemon.adapters.kafka import KafkaSettings
from daemon.adapters.kafka_reader import read_alerts
from daemon.app import App, Surroundings
from daemon.clock import SystemClock
from daemon.demo.gallery import draw_alerts
from daemon.demo.passes import PASSES
from daemon.demo.scenes import DemoPlace, build_demo
from daemon.demo.table import print_alerts
from daemon.kafka_local import LocalBroker, why_not
from daemon.operate.logs import configure_logs
from daemon.service import serve
from daemon.settings import Settings, load_settings
from engine.errors import VigieError

TOPIC = "vigie.alerts.v1"


@dataclass(frozen=True, kw_only=True)
class Tour:
    """What a demo left behind."""

    alerts: list[dict[str, Any]]
    """As read back from the topic or file."""
    pictures: tuple[Path, ...]
    place: DemoPlace
    in_order: bool
    """Whether the daemon stopped in good order with every scene ended."""


def run_demo(folder: Path, console: Console, *, use_kafka: bool = True, seed: int = 0) -> Tour:
    """Run the demo in ``folder``, which is emptied of an earlier demo's state.

    Raises:
        VigieError: something in the road from catalog to alerts failed; the message says what.
    """
    folder = folder.resolve()
    for name in ("catalog", "state", "pictures", "broker"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "state").mkdir(parents=True)
    console.print("[bold]All scenes of this demo are simulated:[/] computed from a seed, never observed.")
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("simulating a river valley", total=len(PASSES))
        place = build_demo(
            folder, seed=seed, progress=lambda done, total: progress.update(bar, completed=done, total=total)
        )
    console.print(f"{len(place.passes)} passes of a river valley are in {place.catalog}.")
    with _broker(folder, console, use_kafka) as bootstrap:
        config = _write_config(folder, place, bootstrap)
        settings = load_settings(config, os.environ)
        in_order = _run_daemon(folder, settings, console)
        if bootstrap is None:
            written = folder / "state" / "alerts.jsonl"
            lines = written.read_text(encoding="utf-8").splitlines() if written.exists() else []
            alerts = list({event["id"]: event["data"] for event in map(json.loads, lines)}.values())
            source = str(written)
        else:
            alerts = read_alerts(KafkaSettings(bootstrap=(bootstrap,), topic=TOPIC))
            source = f"Kafka topic {TOPIC}"
    with App(settings, Surroundings()) as app:
        _print_outcomes(app, console)
        print_alerts(alerts, console, source=source)
        pictures = draw_alerts(app, alerts, folder / "pictures")
    for picture in pictures:
        console.print(f"picture: {picture}")
    return Tour(alerts=alerts, pictures=pictures, place=place, in_order=in_order)


@contextmanager
def _broker(folder: Path, console: Console, use_kafka: bool) -> Iterator[str | None]:
    """A local broker's address; None where there is none, which is said."""
    reason = why_not() if use_kafka else "it was not asked for"
    if reason is not None:
        console.print(f"No Kafka broker ({reason}): alerts go to a JSON-lines file.")
        yield None
        return
    broker = LocalBroker(folder / "broker")
    try:
        with console.status("starting a Kafka broker on this machine"):
            broker.start()
    except VigieError as error:
        console.print(f"No Kafka broker ({error}): alerts go to a JSON-lines file.")
        yield None
        return
    try:
        console.print(f"A Kafka broker listens on {broker.bootstrap}.")
        yield broker.bootstrap
    finally:
        broker.stop()


def _write_config(folder: Path, place: DemoPlace, bootstrap: str | None) -> Path:
    """The demo's configuration, as a user would write it."""
    sink = (
        {"type": "jsonl", "path": "state/alerts.jsonl"}
        if bootstrap is None
        else {"type": "kafka", "bootstrap_servers": [bootstrap], "topic": TOPIC}
    )
    tree = {
        "store": {"url": "sqlite:///state/vigie.db"},
        "cache_dir": "cache",
        "catalogs": [{"name": "simulated", "type": "static", "url": "catalog", "poll_every_s": 5}],
        "areas": [
            {
                "name": "simulated-valley",
                "file": "area.geojson",
                # The cloudy pass is taken too, so that the demo shows how a clouded scene ends.
                "max_cloud_percent": 100,
                "alert_since": place.alert_since.isoformat().replace("+00:00", "Z"),
            }
        ],
        "access": {"local_roots": ["catalog"]},
        "sinks": [sink],
        "http": {"port": 0},
        "log": {"format": "json"},
    }
    path = folder / "demo.yaml"
    head = "# Written by `vigie demo`; `vigie status -c` and `vigie run -c` take it too.\n"
    path.write_text(head + yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


def _run_daemon(folder: Path, settings: Settings, console: Console) -> bool:
    """Run the daemon until nothing is left to do; its log goes to a file."""
    clock, stop = SystemClock(), threading.Event()
    with (folder / "state" / "daemon.log").open("w", encoding="utf-8") as log:
        configure_logs("json", settings.log.level, log)
        with (
            App(settings, Surroundings(clock=clock, pid=os.getpid())) as app,
            Progress(console=console, transient=True) as progress,
        ):
            bar = progress.add_task("scoring", total=len(PASSES))

            def show() -> None:
                while not stop.wait(0.5):
                    counts = app.store.counts().scenes
                    total = sum(counts.values()) or len(PASSES)
                    progress.update(bar, completed=counts.get("done", 0) + counts.get("failed", 0), total=total)

            shower = threading.Thread(target=show, name="progress")
            shower.start()
            try:
                in_order = serve(app, stop, clock, until_idle=True)
            finally:
                stop.set()
                shower.join()
    console.print(f"The daemon's log is {folder / 'state' / 'daemon.log'}.")
    return in_order


def _print_outcomes(app: App, console: Console) -> None:
    table = Table(title="What became of each scene", title_justify="left", header_style="bold")
    for name in ("Seen (UTC)", "Item", "Part", "Outcome", "Tiles", "Flagged", "Alerts", "Why"):
        table.add_column(name, overflow="fold")
    for row in app.store.scenes():
        stats = row.stats
        table.add_row(
            f"{row.scene.sensing_time:%Y-%m-%d %H:%M}",
            row.scene.item_id,
            ", ".join(row.areas.values()),
            row.outcome or row.state,
            str(stats.get("scored", "-")),
            str(stats.get("flagged", "-")),
            str(stats.get("alerts", "-")),
            row.reason or "",
        )
    console.print(table)
