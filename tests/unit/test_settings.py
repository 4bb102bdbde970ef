"""The configuration file: what is accepted, what is overridden, and what a mistake is told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from shapely.geometry import box, shape

from daemon.errors import ConfigError
from daemon.settings import Settings, load_settings
from daemon.settings.sections import Section
from daemon.settings.source import KeyPath, dotted

CONFIG = Path(__file__).parents[2] / "deploy" / "config"
SQUARE = {"type": "Polygon", "coordinates": [[[8, 45], [9, 45], [9, 46], [8, 46], [8, 45]]]}
MINIMAL = """\
catalogs:
  - name: near
    type: static
    url: scenes
areas:
  - name: valley
    bbox: [8, 45, 9, 46]
sinks:
  - type: jsonl
    path: alerts.jsonl
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "vigie.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(folder: Path, text: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(folder, text), environ or {})
    return str(caught.value).replace(str(folder), "DIR")


@pytest.mark.parametrize("name", ["example.yaml", "earth-search.yaml", "local.yaml"])
def test_shipped_files_load_and_can_run(name: str) -> None:
    settings = load_settings(CONFIG / name, {})
    settings.require_watch()
    assert all(shape(area.geometry).area > 0 for area in settings.watched_areas())


def test_example_writes_every_key_with_its_default() -> None:
    example, default = load_settings(CONFIG / "example.yaml", {}), load_settings(None, {})
    for section in ("engine", "scoring", "worker", "http", "log"):
        assert getattr(example, section) == getattr(default, section), section
    text = (CONFIG / "example.yaml").read_text(encoding="utf-8")
    sections, keys = list(Section.__subclasses__()), set[str]()
    for section in sections:
        keys |= set(section.model_fields)
    assert len(sections) >= 13
    assert [key for key in sorted(keys) if not re.search(rf"\b{key}:", text)] == []


def test_earth_search_reads_its_own_buckets_only() -> None:
    settings = load_settings(CONFIG / "earth-search.yaml", {})
    assert settings.catalogs[0].collections["sentinel-2-c1-l2a"] == "sentinel-2-l2a"
    assert all(host.endswith(".s3.us-west-2.amazonaws.com") for host in settings.access.hosts)
    assert settings.access.local_roots == ()


def test_no_file_means_defaults() -> None:
    settings = load_settings(None, {})
    assert settings.http.port == 9477
    assert settings.scoring.tile_px == 64
    with pytest.raises(ConfigError, match="no catalogs, areas, sinks"):
        settings.require_watch()


def test_values_are_frozen(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, MINIMAL), {})
    with pytest.raises(ValueError, match="frozen"):
        settings.http.port = 1


def test_relative_paths_resolve_against_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = "store: {url: 'sqlite:///state/v.db'}\nengine: {bundle: ./mine}\naccess: {local_roots: [scenes, /abs]}\n"
    path = write(tmp_path, MINIMAL + extra)
    monkeypatch.chdir("/")
    settings = load_settings(path, {})
    assert settings.store.url == f"sqlite:///{tmp_path}/state/v.db"
    assert settings.cache_dir == Path("~/.cache/vigie").expanduser()
    assert settings.catalogs[0].url == str(tmp_path / "scenes")
    assert settings.engine.bundle == str(tmp_path / "mine")
    assert settings.access.local_roots == (tmp_path / "scenes", Path("/abs"))
    assert settings.sinks[0].type == "jsonl"
    assert settings.sinks[0].path == tmp_path / "alerts.jsonl"


def test_misspelt_key_names_line_and_suggestion(tmp_path: Path) -> None:
    text = MINIMAL.replace("    url: scenes\n", "    url: scenes\n    pol_every_s: 5\n")
    assert mistakes(tmp_path, text) == (
        "DIR/vigie.yaml:5:5: catalogs[0].pol_every_s: unknown key; did you mean 'poll_every_s'?"
    )


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = (
        "catalogs:\n- name: a\n  type: statc\n  url: x\n"
        "areas:\n- name: b\n  bbox: [9, 45, 8, 46]\n- name: c\n  catalogs: [aa]\n- name: b\n  bbox: [8, 45, 9, 46]\n"
        "sinks:\n- type: kafk\n- type: jsonl\n  pth: x\n- type: kafka\n  bootstrap_servers: []\n"
        "  security: {protocol: SSL, pasword_file: x}\n"
        "http: {port: 99999}\nlgo: {}\n"
    )
    told = mistakes(tmp_path, text).splitlines()
    assert told[0] == f"{len(told) - 1} mistakes in the configuration:"
    expected = {
        "3:3: catalogs[0].type: found 'statc'; did you mean 'static'?",
        "7:3: areas[0].bbox: found [9.0, 45.0, 8.0, 46.0]; it must be [west, south, east, north]",
        "8:3: areas[1]: an area needs exactly one of bbox, geometry and file; found none of them",
        "9:14: areas[1].catalogs[0]: no catalog is named 'aa'; did you mean 'a'?",
        "10:3: areas[2].name: 'b' names two entries",
        "13:3: sinks[0]: type is 'kafk'; did you mean 'kafka'?",
        "14:3: sinks[1].path: this key is missing",
        "15:3: sinks[1].pth: unknown key; did you mean 'path'?",
        "17:3: sinks[2].bootstrap_servers: found []; ",
        "18:29: sinks[2].security.pasword_file: unknown key; did you mean 'password_file'?",
        "19:8: http.port: found 99999; should be less than or equal to 65535",
        "20:1: lgo: unknown key; did you mean 'log'?",
    }
    for start in expected:
        assert any(line.startswith(f"  DIR/vigie.yaml:{start}") for line in told), (start, told)
    assert len(told) - 1 == len(expected)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http:\n  port: 1\nhttp:\n  port: 2\n", "DIR/vigie.yaml:3:1: http: written twice, first on line 1"),
        ("http: {port: 1, port: 2}\n", "DIR/vigie.yaml:1:17: http.port: written twice"),
        ("http:\n\tport: 1\n", "DIR/vigie.yaml:2:1: this is not YAML"),
        ("http: [1\n", "this is not YAML"),
        ("- a\n", "DIR/vigie.yaml:1:1: the file holds a list"),
        ("a: &a [*a]\n", "aliases make the file endless"),
        ("areas: [{name: 5, bbox: [1, 2, 3, 4]}]\n", "areas[0].name: found 5, which is not text: put it in quotes"),
        (
            "areas: [{name: a, bbox: [1, 2, 3, 4], alert_since: 2026-01-01}]\n",
            "areas[0].alert_since: found 2026-01-01",
        ),
        ("areas: [{name: a, file: gone.geojson}]\n", "areas[0].file: there is no file DIR/gone.geojson"),
        ("areas: [{name: a, geometry: {type: Point, coordinates: [1, 2]}}]\n", "found a geometry of type 'Point'"),
        (
            "areas: [{name: a, geometry: {type: Polygon, coordinates: [[[0,0],[1,1],[1,0],[0,1],[0,0]]]}}]\n",
            "the polygon is not valid (Self-intersection",
        ),
        ("catalogs: [{name: a, url: 'https://x'}]\n", "a STAC API needs `collections:`"),
        ("catalogs: [{name: a, url: folder, collections: [c]}]\n", "set `type: static` for a folder"),
        ("catalogs: [{name: a, url: 's3://b', type: static}]\n", "a catalog is reached by https://"),
        (
            "catalogs:\n- name: a\n  url: 'https://x'\n  collections:\n    s2: sentinel-2-l2\n",
            "DIR/vigie.yaml:5:5: catalogs[0].collections.s2: no sensor is named 'sentinel-2-l2'; did you mean 'senti",
        ),
        ("store: {url: 'mysql://x'}\n", "no database of kind 'mysql'"),
        ("store: {password_file: gone}\n", "store.password_file: there is no file DIR/gone"),
        (
            "sinks: [{type: kafka, bootstrap_servers: a, security: {protocol: SASL_SSL}}]\n",
            "protocol SASL_SSL needs mechanism, username, password_file",
        ),
        ("engine: {runner: onx}\n", "engine.runner: found 'onx'; it may be one of auto, onnxruntime, tensorrt, torch"),
        ("scoring: {tile_px: 60}\n", "scoring.tile_px: found 60; should be a multiple of 16"),
    ],
)
def test_mistake_is_told(tmp_path: Path, text: str, told: str) -> None:
    assert told in mistakes(tmp_path, text)


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration file at .*gone\.yaml: copy deploy/config/example\.yaml"):
        load_settings(tmp_path / "gone.yaml", {})


def test_misplaced_password_is_not_told(tmp_path: Path) -> None:
    text = (
        "store: {url: 'mysql://me:hunter2@db/x'}\n"
        "sinks: [{type: kafka, bootstrap_servers: a, security: {password: hunter2}}]\nhttp: 'x://me:hunter2@y'\n"
    )
    told = mistakes(tmp_path, text)
    assert "hunter2" not in told
    assert "did you mean 'password_file'?" in told


def test_redacted_hides_passwords_and_keeps_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "store: {url: 'postgresql://me:hunter2@db:5432/vigie'}\n")
    settings = load_settings(path, {})
    shown = settings.redacted()
    assert shown["store"]["url"] == "postgresql+psycopg://me:***@db:5432/vigie"
    assert "hunter2" not in json.dumps(shown)
    assert shown["areas"][0]["history_looks"] == 12


def test_password_file_goes_into_the_url(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("p@ss/word\n", encoding="utf-8")
    text = "store: {url: 'postgresql://me@db:5432/vigie', password_file: secret}\n"
    store = load_settings(write(tmp_path, text), {}).store
    assert store.url_with_password() == "postgresql+psycopg://me:p%40ss%2Fword@db:5432/vigie"


def test_areas_become_geometries(tmp_path: Path) -> None:
    east = {"type": "Polygon", "coordinates": [[[9, 45], [10, 45], [10, 46], [9, 46], [9, 45]]]}
    features = [{"type": "Feature", "properties": {}, "geometry": geometry} for geometry in (SQUARE, east)]
    collection = {"type": "FeatureCollection", "features": features}
    (tmp_path / "a.geojson").write_text(json.dumps(collection), encoding="utf-8")
    text = (
        "areas:\n- {name: one, file: a.geojson, alert_since: 2026-01-01T01:00:00+01:00}\n"
        f"- {{name: two, geometry: {json.dumps(SQUARE)}}}\n- {{name: three, bbox: [8, 45, 9, 46]}}\n"
    )
    one, two, three = load_settings(write(tmp_path, text), {}).watched_areas()
    assert shape(one.geometry).equals(box(8, 45, 10, 46))
    assert one.alert_since == datetime(2026, 1, 1, tzinfo=UTC)
    assert shape(two.geometry).equals(box(8, 45, 9, 46))
    assert shape(three.geometry).equals(box(8, 45, 9, 46))
    assert three.alert_since is None


def test_merge_keys_are_allowed(tmp_path: Path) -> None:
    text = "areas:\n- &a {name: one, bbox: [8, 45, 9, 46], min_tiles: 3}\n- {<<: *a, name: two}\n"
    settings = load_settings(write(tmp_path, text), {})
    assert [(area.name, area.min_tiles) for area in settings.areas] == [("one", 3), ("two", 3)]


def test_environment_beats_the_file(tmp_path: Path) -> None:
    environ = {
        "VIGIE__HTTP__PORT": "1",
        "VIGIE__CATALOGS__0__URL": "https://example.org/stac",
        "VIGIE__AREAS__0__NAME": "2026",
        "VIGIE__AREAS__0__CATALOGS": "near",
        "VIGIE__SINKS": '[{"type": "kafka", "bootstrap_servers": "h:1"}]',
        "VIGIE__SINKS__0__TOPIC": "t",
        "VIGIE__SINKS__1": '{"type": "jsonl", "path": "/x"}',
        "VIGIE__ENGINE__THREADS": "null",
        "vigie__log__level": "debug",
        "VIGIE_DATA": "not ours",
    }
    settings = load_settings(write(tmp_path, MINIMAL + "http: {port: 2}\nengine: {threads: 3}\n"), environ)
    assert settings.http.port == 1
    assert settings.catalogs[0].url == "https://example.org/stac"
    assert settings.areas[0].name == "2026"
    assert settings.areas[0].watches("near")
    assert not settings.areas[0].watches("far")
    assert settings.sinks[0].type == "kafka"
    assert (settings.sinks[0].bootstrap_servers, settings.sinks[0].topic) == (("h:1",), "t")
    assert settings.sinks[1].type == "jsonl"
    assert settings.engine.threads is None
    assert settings.log.level == "debug"


def test_environment_alone_can_configure_all() -> None:
    environ = {
        "VIGIE__CATALOGS__0__NAME": "a",
        "VIGIE__CATALOGS__0__URL": "https://a",
        "VIGIE__CATALOGS__0__COLLECTIONS": "sentinel-2-l2a",
        "VIGIE__AREAS__0__NAME": "b",
        "VIGIE__AREAS__0__BBOX": "[1, 2, 3, 4]",
        "VIGIE__SINKS__0__TYPE": "jsonl",
        "VIGIE__SINKS__0__PATH": "/a.jsonl",
    }
    settings = load_settings(None, environ)
    settings.require_watch()
    assert settings.catalogs[0].collections == {"sentinel-2-l2a": "auto"}


def test_environment_reaches_collection_ids_with_hyphens() -> None:
    environ = {"VIGIE__CATALOGS__0__COLLECTIONS__SENTINEL_2_C1_L2A": "auto"}
    settings = load_settings(CONFIG / "example.yaml", environ)
    assert settings.catalogs[0].collections == {"sentinel-2-c1-l2a": "auto", "naip": "auto"}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("VIGIE__HTP__PORT", "environment variable VIGIE__HTP__PORT: htp: unknown key; did you mean 'http'?"),
        ("VIGIE__AREAS__2__NAME", "'2' is no entry of a list of 1: use an index from 0 to 1"),
        ("VIGIE__HTTP__PORT", "environment variable VIGIE__HTTP__PORT: http.port: found 'oops'; should be a valid"),
    ],
)
def test_wrong_variable_is_named(tmp_path: Path, name: str, told: str) -> None:
    assert told in mistakes(tmp_path, MINIMAL, {name: "oops"})


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, below in pairs:
            yield from leaves(below, (*path, key))
    else:
        yield path, value


def at(value: Any, path: KeyPath) -> Any:
    for part in path:
        value = value[part]
    return value


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A file that has every kind of entry, so that every leaf of the settings exists."""
    for name in ("secret", "other"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    (tmp_path / "area.geojson").write_text(json.dumps(SQUARE), encoding="utf-8")
    (tmp_path / "other.geojson").write_text(json.dumps(SQUARE), encoding="utf-8")
    return write(
        tmp_path,
        f"""\
store: {{url: 'postgresql://me@db/x', password_file: secret}}
catalogs:
- {{name: a, url: 'https://a', collections: {{c: auto}},
   credentials: {{type: basic, username: u, secret_file: secret}},
   signing: {{type: planetary-computer, key_file: secret}}}}
- {{name: b, url: 'https://b', collections: {{d: auto}},
   credentials: {{type: basic, username: u, secret_file: secret}},
   signing: {{type: planetary-computer, key_file: secret}}}}
areas:
- {{name: one, bbox: [8, 45, 9, 46]}}
- {{name: two, geometry: {json.dumps(SQUARE)}, alert_since: 2026-01-01T00:00:00Z}}
- {{name: three, file: area.geojson}}
access: {{hosts: [h], http_hosts: ['h:1'], local_roots: [r],
  s3: {{buckets: {{b: eu}}, requester_pays: true, access_key_id_file: secret,
    secret_access_key_file: secret, session_token_file: secret}}}}
sinks:
- type: kafka
  bootstrap_servers: [h]
  security: {{protocol: SASL_SSL, mechanism: PLAIN, username: u, password_file: secret, ca_file: secret,
             cert_file: secret, key_file: secret}}
- {{type: jsonl, path: x}}
""",
    )


def test_every_leaf_can_be_overridden_by_the_environment(full: Path) -> None:
    """The law: a variable that names a leaf changes that leaf, and no other."""
    before = load_settings(full, {}).redacted()
    folder = full.parent
    # Values of each type, one of which is legal and different for each leaf that stands alone.
    candidates = [
        "b", "7", "48", "0.5", "8.25", "false", "true", "fp16", "SASL_PLAINTEXT", "SCRAM-SHA-256", "torch", "cpu",
        "error", "json", "sentinel-2-l2a", "https://other.example", "postgresql+psycopg://other@db/y",
        str(folder / "other"), str(folder / "other.geojson"), "2027-01-01T00:00:00Z",
    ]  # fmt: skip
    # Leaves that are bound to others: exactly one of three places an area, and a type picks the other keys.
    bound = {"bbox", "geometry", "file", "type", "header"}
    unchanged: list[str] = []
    count = 0
    for path, old in leaves(before):
        if bound & set(path) and not (path[-1] == "file" and old is not None) and path[-2:-1] != ("bbox",):
            continue
        count += 1
        name = "VIGIE__" + "__".join(str(part).upper() for part in path)
        for candidate in candidates:
            try:
                after = load_settings(full, {name: candidate}).redacted()
            except ConfigError:
                continue
            if at(after, path) != old:
                others = [(p, v) for p, v in leaves(after) if p != path]
                assert others == [(p, v) for p, v in leaves(before) if p != path], name
                break
        else:
            unchanged.append(dotted(path))
    assert unchanged == []
    assert count > 80


@pytest.mark.parametrize(
    ("environ", "path", "value"),
    [
        ({"VIGIE__CATALOGS__0__TYPE": "static"}, ("catalogs", 0, "type"), "static"),
        ({"VIGIE__SINKS__1__TYPE": "kafka", "VIGIE__SINKS__1__PATH": "x"}, None, "sinks[1].path: unknown key"),
        ({"VIGIE__AREAS__0__BBOX": "null", "VIGIE__AREAS__0__FILE": "area.geojson"}, ("areas", 0, "bbox"), None),
        ({"VIGIE__AREAS__1__GEOMETRY__TYPE": "Point"}, None, "found a geometry of type 'Point'"),
        (
            {"VIGIE__AREAS__1__GEOMETRY__COORDINATES__0__0": "[7, 44]"},
            ("areas", 1, "geometry", "coordinates", 0, 0),
            [7, 44],
        ),
    ],
)
def test_bound_leaves_can_be_overridden_together(
    full: Path, environ: dict[str, str], path: KeyPath | None, value: Any
) -> None:
    if path is None:
        with pytest.raises(ConfigError) as caught:
            load_settings(full, environ)
        assert value in str(caught.value)
    else:
        assert at(load_settings(full, environ).redacted(), path) == value


def test_redacted_is_a_configuration_again(full: Path) -> None:
    settings = load_settings(full, {})
    assert Settings.model_validate(settings.redacted(), context={"folder": full.parent}) == settings
