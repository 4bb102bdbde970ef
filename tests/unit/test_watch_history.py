"""``vigie backfill`` and ``vigie audit``: on catalogs in memory, and as commands on a folder."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from daemon.adapters.memory import MemoryCatalog
from daemon.clock import ManualClock, SystemClock
from daemon.commands import history
from daemon.errors import CatalogUnavailable, ConfigError
from daemon.scenes import Area
from daemon.store import Store, WatchedArea
from daemon.watch.audit import compare, list_catalog
from daemon.watch.back_fill import BackFill, Progress
from daemon.watch.poll import CatalogWatch
from daemon.watch.watcher import Watcher
from daemon.watch.windows import Window
from tests.stac_builder import item, square, write_static_catalog

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AREA = Area(name="north", geometry=square(10.0, 50.0), history_looks=1, history_days=30)
OTHER = Area(name="south", geometry=square(10.0, 20.0), history_looks=1, history_days=30)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'vigie.db'}", clock=clock) as opened:
        opened.migrate()
        yield opened


def scene(name: str, days: float, *, lat: float = 50.0, **fields: Any) -> dict[str, Any]:
    return item(
        name,
        collection="sentinel-2-l2a",
        when=f"{NOW + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}",
        geometry=square(10.0, lat, 0.5),
        assets={"red": {"href": "https://e.test/red.tif"}},
        **fields,
    )


def watch(catalog: MemoryCatalog, *areas: Area) -> CatalogWatch:
    return CatalogWatch(catalog=catalog, areas=areas or (AREA,), sensors={"sentinel-2-l2a": "auto"}, page_size=2)


def registered(store: Store, *catalogs: str, areas: Sequence[Area] = (AREA,)) -> dict[str, WatchedArea]:
    return dict(store.register_areas(areas, {name: [area.name for area in areas] for name in catalogs}))


def never(failures: int, error: CatalogUnavailable) -> None:
    raise error


def back_fill(catalog: MemoryCatalog, store: Store, *areas: Area, seen: list[Progress] | None = None) -> BackFill:
    return BackFill(
        watch(catalog, *areas),
        store,
        registered(store, catalog.name, areas=areas or (AREA,)),
        versions_of=store.versions_of,
        pause=never,
        on_progress=(seen if seen is not None else []).append,
    )


def claimable(store: Store) -> list[str]:
    names = []
    while claim := store.claim("worker", 60):
        names.append(claim.scene.item_id)
        with store.finish(claim) as ending:
            ending.done("scored")
    return names


def test_history_is_scored_in_sensing_order_after_everything_fresh(store: Store, clock: ManualClock) -> None:
    catalog = MemoryCatalog("memory")
    old = [scene(f"old-{days}", -days) for days in range(100, 200, 10)]
    random.Random(1).shuffle(old)
    catalog.add(*old, scene("cloudy", -105, eo__cloud_cover=99.0), scene("older", -999), scene("newer", -50))
    Watcher([watch(catalog)], store, clock, rng=random.Random(1)).poll("memory")
    seen: list[Progress] = []
    tally = back_fill(catalog, store, seen=seen).run(NOW - timedelta(days=200), NOW - timedelta(days=95))
    assert (tally.new, tally.made_claimable, tally.passed_over["clouded"]) == (10, 10, 1)
    assert [round(progress.share, 2) for progress in seen] == [0.25, 0.5, 0.75, 1.0]
    catalog.add(scene("fresh", 0.01))
    clock.advance(3600)
    Watcher([watch(catalog)], store, clock, rng=random.Random(1)).poll("memory")
    assert claimable(store) == ["fresh", *(f"old-{days}" for days in range(190, 90, -10))]
    roles = {row.scene.item_id: row.areas["north"] for row in store.scenes()}
    assert roles.pop("fresh") == "fresh"
    assert set(roles.values()) == {"history"}


def test_a_back_fill_goes_on_from_the_page_where_it_stood(store: Store) -> None:
    catalog = MemoryCatalog("memory")
    catalog.add(*(scene(f"s-{days}", -days) for days in range(100, 110)))
    catalog.fail(None, None, CatalogUnavailable("down"))
    start, end = NOW - timedelta(days=110), NOW - timedelta(days=99)
    with pytest.raises(CatalogUnavailable, match="down"):
        back_fill(catalog, store).run(start, end)
    assert len(store.scenes(state="discovered")) == 4
    tally = back_fill(catalog, store).run(start, end)
    assert (tally.items, tally.new, tally.made_claimable) == (6, 6, 10)
    # Once more: nothing is asked, unless it is told to.
    assert back_fill(catalog, store).run(start, end).items == 0
    again = back_fill(catalog, store).run(start, end, again=True)
    assert (again.items, again.new, again.made_claimable) == (10, 0, 0)
    # Another span is another back-fill.
    assert back_fill(catalog, store).run(start, end - timedelta(days=1)).items > 0


def test_an_audit_tells_what_each_catalog_lacks_and_what_was_never_scored(store: Store, clock: ManualClock) -> None:
    """Complaints 1, 4 and 25: scenes absent from one catalog, missing during a flood, and how to trigger them."""
    first, second = MemoryCatalog("first"), MemoryCatalog("second")
    both = [scene(f"both-{days}", -days) for days in (1, 2, 3)]
    first.add(*both, scene("only-first", -4))
    second.add(*both, scene("only-second", -5), scene("elsewhere", -5, lat=-20.0))
    since = Area(name="north", geometry=AREA.geometry, alert_since=NOW - timedelta(days=20))
    watching = watch(first, since)
    Watcher([watching], store, clock, rng=random.Random(1)).poll("first")
    watched = registered(store, "first", areas=[since])
    claim = store.claim("worker", 60)
    assert claim is not None
    store.fail(claim, "truncated", None)
    first._items.pop(("sentinel-2-l2a", "both-2"))
    window = Window(start=NOW - timedelta(days=30), end=NOW)
    listings = [list_catalog(each, watched, window, pause=never) for each in (watching, watch(second, since))]
    found = compare(listings, store.scenes(), window, idle_before=NOW - timedelta(hours=1))
    assert found.listed == {"first": 3, "second": 4}
    assert {name: [scene.item_id for scene in scenes] for name, scenes in found.lacks.items()} == {
        "first": ["only-second", "both-2"],
        "second": ["only-first"],
    }
    assert found.coverage == {"first": 3 / 5, "second": 4 / 5}
    assert [sighting.scene.item_id for sighting in found.missing] == ["only-second"]
    assert [(each.scene.item_id, each.state, each.reason) for each in found.unscored] == [
        ("only-first", "failed", "truncated")
    ]
    assert [scene.item_id for scene in found.withdrawn] == ["both-2"]
    later = compare(listings, store.scenes(), window, idle_before=NOW + timedelta(hours=1))
    assert [(each.scene.item_id, each.state) for each in later.unscored][1:] == [
        ("both-3", "pending"),
        ("both-2", "pending"),
        ("both-1", "pending"),
    ]


def test_an_audit_of_nothing_covers_everything() -> None:
    window = Window(start=NOW - timedelta(days=30), end=NOW)
    assert compare([], [], window, idle_before=NOW).coverage == {}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration of two folders, of which the second lacks a scene that the first has and has one more."""
    scenes = [scene("a", -40), scene("b", -41), scene("c", -42)]
    write_static_catalog(tmp_path / "one", scenes[:2])
    write_static_catalog(tmp_path / "two", scenes[1:])
    path = tmp_path / "vigie.yaml"
    document = {
        "catalogs": [
            {"name": name, "type": "static", "url": name, "collections": ["sentinel-2-l2a"]} for name in ("one", "two")
        ],
        "areas": [{"name": "north", "geometry": AREA.geometry, "alert_since": "2025-11-01T00:00:00Z"}],
        "sinks": [{"type": "jsonl", "path": "alerts.jsonl"}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.command("audit")(history.audit)
    app.command("backfill")(history.backfill)
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def scenes_of(config: Path) -> dict[str, str]:
    with Store.open(f"sqlite:///{config.parent / 'vigie.db'}", clock=SystemClock()) as opened:
        return {row.scene.item_id: row.state for row in opened.scenes()}


def test_the_audit_command_lists_and_schedules(config: Path) -> None:
    span = ("--config", str(config), "--from", "2025-11-01", "--to", "2025-12-31")
    told = json.loads(run("audit", "--json", *span).stdout)
    assert told["listed"] == {"one": 2, "two": 2}
    assert {name: [each["item"] for each in part] for name, part in told["lacks"].items()} == {
        "one": ["c"],
        "two": ["a"],
    }
    assert [each["item"] for each in told["missing"]] == ["c", "b", "a"]
    assert scenes_of(config) == {}
    result = run("audit", *span)
    assert "Run `vigie audit --schedule` to have 3 scenes scored." in result.stdout
    assert "3 scenes will be scored." in run("audit", "--schedule", *span).stdout
    assert scenes_of(config) == dict.fromkeys("abc", "pending")
    assert json.loads(run("audit", "--json", *span).stdout)["missing"] == []


def test_the_backfill_command_queues_a_span(config: Path) -> None:
    arguments = ("backfill", "--config", str(config), "--from", "2025-11-01")
    assert "1 of them new; 1 scenes" in run(*arguments, "--to", "2025-11-20T12:00:00Z", "--catalog", "two").stdout
    result = run(*arguments, "--area", "north")
    assert "4 Items listed, 2 of them new; 2 scenes will be scored when no fresh one waits." in result.stdout
    assert scenes_of(config) == dict.fromkeys("abc", "pending")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["backfill", "--from", "yesterday"], "'yesterday' is neither a day"),
        (["backfill", "--from", "2025-12-01", "--to", "2025-11-01"], "is not before"),
        (["backfill", "--from", "2025-11-01", "--area", "nroth"], "did you mean 'north'|north"),
        (["audit", "--against", "there"], "is no URL"),
        (["audit", "--against", "https://c.test"], "needs --collection"),
    ],
)
def test_a_mistake_is_told(config: Path, arguments: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run(*arguments, "--config", str(config))
