"""The alert's bytes: what consumers read must be exact, valid, and the same on every retry."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import shapely
import yaml
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from daemon.errors import AlertInvalid
from daemon.publish.alerts import (
    MAX_TILES,
    MAX_VERTICES,
    Alert,
    alert_id,
    alert_of,
    alert_schema,
    check_feature,
    lifecycle_id,
)
from daemon.scenes import Area, Scene
from daemon.settings.sinks import KafkaSinkSettings
from engine.detect import Detection

DOCS = Path(__file__).resolve().parents[2] / "deploy" / "docs"
CLOCKWISE = [[-1.0, 44.0], [-1.0, 44.01], [-0.99, 44.01], [-0.99, 44.0], [-1.0, 44.0]]
ANTICLOCKWISE = [[-1.0, 44.0], [-0.99, 44.0], [-0.99, 44.01], [-1.0, 44.01], [-1.0, 44.0]]

SCENE = Scene(
    identity="S2A|2026-01-02T10:56:21Z|MGRS-30TXQ|GS2A",
    version="0123456789abcdef",
    catalog="earth-search",
    collection="sentinel-2-l2a",
    item_id="S2A_30TXQ_20260102_0_L2A",
    sensor="sentinel-2-l2a",
    platform="sentinel-2a",
    sensing_time=datetime(2026, 1, 2, 10, 56, 21, 24000, tzinfo=UTC),
    grid_code="MGRS-30TXQ",
    geometry={"type": "Polygon", "coordinates": [ANTICLOCKWISE]},
    cloud_cover_percent=3.0,
    updated=None,
    item={},
)
AREA = Area(name="Adour at Dax", geometry=SCENE.geometry, alerts_per_month=0.5, min_tiles=2)
DETECTION = Detection(
    kind="flood",
    anchor_cell="32630-0-64-1002-7602",
    cell_ids=("32630-0-64-1002-7602", "32630-0-64-1003-7602"),
    geometry={"type": "Polygon", "coordinates": [CLOCKWISE]},
    area_m2=819200.0,
    score=7.5,
    p_value=0.0025,
    threshold=4.25,
    calibration="place",
    extrapolated=False,
    evidence={
        "basis": "place",
        "looks": 12,
        "calibration_tiles": 400,
        "peak_cell": "32630-0-64-1003-7602",
        "odeed": {"score": 0.0125, "log_change": 1.5, "z": 6.25},
        "xstars": {"distance": 0.5, "z": 7.5, "nearest_scene": "a", "nearest_sensing_time": "2025-12-03T10:56:21Z"},
        "water": {
            "share_now": 0.75,
            "share_reference": 0.25,
            "gain": 0.5,
            "gain_peak": 0.875,
            "new_water_m2": 409600.0,
        },
    },
)


def make(detection: Detection = DETECTION, scene: Scene = SCENE, **changes: Any) -> Alert:
    fields: dict[str, Any] = {
        "area": AREA,
        "incident": "Adour at Dax|32630-0-64-1002-7602|2026-01-02",
        "place": "Adour at Dax",
        "state": "new",
        "sequence": 1,
        "budget": None,
        "model_name": "base",
        "model_hash": "fedcba9876543210",
        "reference_id": "ref-1",
    }
    return alert_of(detection, scene, **{**fields, **changes})


def test_the_bytes_of_an_alert_are_exactly_these() -> None:
    """Golden bytes: whoever changes them changes what consumers read."""
    expected = Path(__file__).with_name("alert.v1.golden.json").read_bytes().rstrip(b"\n")
    assert make().data == expected


def test_an_alert_may_list_similar_tiles_and_those_of_before_still_validate() -> None:
    check_feature(json.loads(Path(__file__).with_name("alert.v1.golden.json").read_bytes()))
    tile = {"cell": "32630-0-64-990-7600", "sensing_time": "2025-12-03T10:56:21Z", "scene": "S2A|x", "cosine": 0.987654}
    with_tiles = replace(DETECTION, evidence={**DETECTION.evidence, "similar_tiles": [tile] * 5})
    feature = make(with_tiles).feature()
    assert feature["properties"]["evidence"]["similar_tiles"] == [tile] * 5
    # Nothing else of the message has moved.
    del feature["properties"]["evidence"]["similar_tiles"]
    assert feature == make().feature()


@pytest.mark.parametrize("wrong", [{"cosine": 1.5}, {"cosine": None}, {"cell": ""}, {"sensing_time": "yesterday"}])
def test_a_similar_tile_that_breaks_the_schema_is_no_alert(wrong: dict[str, Any]) -> None:
    tile = {"cell": "32630-0-64-990-7600", "sensing_time": "2025-12-03T10:56:21Z", "scene": "S2A|x", "cosine": 0.9}
    for tiles in ([{**tile, **wrong}], [tile] * 6):
        with pytest.raises(AlertInvalid, match="similar_tiles"):
            make(replace(DETECTION, evidence={**DETECTION.evidence, "similar_tiles": tiles}))


def test_the_headers_are_a_cloudevent_in_kafka_binary_mode() -> None:
    alert = make()
    message = alert.to_message()
    assert message.headers == (
        ("content-type", b"application/geo+json"),
        ("ce_specversion", b"1.0"),
        ("ce_id", alert.alert_id.encode()),
        ("ce_source", b"/vigie/areas/Adour%20at%20Dax"),
        ("ce_type", b"vigie.alert.v1"),
        ("ce_subject", b"Adour at Dax|32630-0-64-1002-7602|2026-01-02"),
        ("ce_time", b"2026-01-02T10:56:21.024000Z"),
        ("ce_dataschema", b"urn:vigie:schema:alert.v1"),
        ("ce_partitionkey", b"Adour at Dax"),
        ("ce_sequence", b"0000000001"),
    )
    assert message.key == b"Adour at Dax"


def test_the_cloudevents_sdk_reads_the_same_event() -> None:
    """The SDK is an independent reader: Vigie writes the headers itself."""
    alert = make()
    message = alert.to_message()
    wire = KafkaMessage(headers=dict(message.headers), key=message.key, value=message.value)
    event = from_binary(wire, JSONFormat())
    assert event.get_id() == alert.alert_id
    assert event.get_time() == SCENE.sensing_time
    assert event.get_datacontenttype() == "application/geo+json"
    assert event.get_dataschema() == alert_schema()["$id"]
    assert event.get_extension("partitionkey") == "Adour at Dax"
    assert event.get_extension("sequence") == "0000000001"
    assert event.get_data() == alert.feature()


def test_order_of_sequence_strings_is_the_order_of_revisions() -> None:
    headers = [dict(make(sequence=n).to_message().headers)["ce_sequence"] for n in (1, 2, 9, 10, 99, 100)]
    assert headers == sorted(headers)


def test_the_same_inputs_make_the_same_bytes_in_any_time_zone_and_key_order() -> None:
    shuffled = replace(DETECTION, evidence=dict(reversed(DETECTION.evidence.items())))
    elsewhere = replace(SCENE, sensing_time=SCENE.sensing_time.astimezone(timezone(timedelta(hours=5, minutes=45))))
    assert make(shuffled, elsewhere).to_message() == make().to_message()


def test_the_id_is_a_uuid5_and_every_part_of_it_counts() -> None:
    parts: dict[str, Any] = {
        "scene_identity": "i",
        "scene_version": "v",
        "anchor_cell": "c",
        "kind": "flood",
        "model_hash": "m",
        "reference_id": "r",
    }
    ids = {alert_id(**parts)} | {alert_id(**{**parts, name: "anomaly"}) for name in parts}
    ids |= {alert_id(**{**parts, "reference_id": None}), lifecycle_id(incident="i", state="ended", sequence=2)}
    # Joining by a separator would confuse these two.
    ids |= {alert_id(**{**parts, "scene_identity": "i|v", "scene_version": ""})}
    assert len(ids) == 10
    assert {uuid.UUID(one).version for one in ids} == {5}


def test_exterior_rings_are_anticlockwise_and_holes_clockwise() -> None:
    hole = [[-0.997, 44.003], [-0.993, 44.003], [-0.993, 44.007], [-0.997, 44.007], [-0.997, 44.003]]
    alert = make(replace(DETECTION, geometry={"type": "Polygon", "coordinates": [CLOCKWISE, hole]}))
    exterior, interior = alert.feature()["geometry"]["coordinates"]
    assert shapely.LinearRing(exterior).is_ccw
    assert not shapely.LinearRing(interior).is_ccw


def test_an_outline_of_too_many_vertices_becomes_its_hull_and_says_so() -> None:
    circle = shapely.Point(2.0, 48.0).buffer(0.1, quad_segs=MAX_VERTICES)
    dented = circle.difference(shapely.box(2.0, 47.99, 2.2, 48.01))
    alert = make(replace(DETECTION, geometry=shapely.geometry.mapping(dented)))
    data = alert.feature()
    outline = shapely.geometry.shape(data["geometry"])
    assert shapely.get_num_coordinates(outline) < shapely.get_num_coordinates(dented)
    assert outline.buffer(1e-6).covers(dented)
    assert "convex hull" in data["properties"]["evidence"]["notes"][0]


def test_a_message_lists_only_so_many_tiles_but_counts_all() -> None:
    cells = tuple(f"32630-0-64-{n:05d}-1" for n in range(30_000))
    alert = make(replace(DETECTION, cell_ids=cells))
    properties = alert.feature()["properties"]
    assert (properties["tile_count"], len(properties["tiles"])) == (30_000, MAX_TILES)
    assert len(alert.data) < 900_000


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"p_value": -0.1}, "properties.p_value"),
        ({"p_value": float("nan")}, "JSON"),
        ({"kind": "fire"}, "properties.kind"),
        ({"area_m2": -1.0}, "properties.affected_area_m2"),
        ({"cell_ids": ()}, "properties.tile"),
        ({"geometry": {"type": "Point", "coordinates": [0, 0]}}, "geometry"),
        ({"geometry": {"type": "Polygon", "coordinates": [[[200, 0], [201, 0], [201, 1], [200, 0]]]}}, "geometry"),
        ({"geometry": {"type": "Nonsense"}}, "geometry"),
        ({"evidence": {"odeed": {"score": -1.0}}}, "properties.evidence.odeed.score"),
    ],
)
def test_an_invalid_alert_is_refused_when_made_with_the_path(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(AlertInvalid, match=path):
        make(replace(DETECTION, **changes))


def test_other_invalid_fields_are_refused_too() -> None:
    with pytest.raises(AlertInvalid, match=r"properties\.sequence"):
        make(sequence=0)
    with pytest.raises(AlertInvalid, match="time zone"):
        make(scene=replace(SCENE, sensing_time=datetime(2026, 1, 2)))  # noqa: DTZ001 - that is the point
    with pytest.raises(AlertInvalid, match=r"properties\.links\.0"):
        make(links=({"rel": "self"},))
    with pytest.raises(AlertInvalid, match="at id"):
        replace(make(), alert_id="7")


def test_missing_evidence_comes_with_its_reason() -> None:
    evidence = {"odeed": {"score": 0.5, "log_change": None, "z": None}, "xstars": None, "water": None}
    said = make(replace(DETECTION, kind="anomaly", evidence=evidence)).feature()["properties"]["evidence"]
    assert "water index" in said["water_reason"]
    assert "earlier looks" in said["xstars_reason"]
    broken = make().feature()
    broken["properties"]["evidence"]["water"] = None
    with pytest.raises(AlertInvalid, match="water_reason"):
        check_feature(broken)


def test_an_end_without_a_scene_is_valid_but_a_new_alert_without_one_is_not() -> None:
    bare = dict.fromkeys(("scene", "score", "p_value", "threshold", "calibration", "budget", "reference_id"))
    ended = replace(
        make(),
        **bare,
        state="ended",
        sequence=3,
        tiles=(),
        alert_id=lifecycle_id(incident="Adour at Dax", state="ended", sequence=3),
        evidence={"odeed": None, "xstars": None, "xstars_reason": "-", "water": None, "water_reason": "-"},
    )
    assert ended.feature()["properties"]["scene"] is None
    with pytest.raises(AlertInvalid, match="properties"):
        replace(ended, state="updated")


def test_consumers_must_let_new_fields_through_but_we_write_no_undeclared_one() -> None:
    """Version 1 grows by addition: the published schema is open, and this closed copy holds us to it."""
    grown = make().feature()
    grown["properties"]["invented_later"] = 1
    check_feature(grown)
    closed = _closed(alert_schema())
    assert not list(Draft202012Validator(closed).iter_errors(make().feature()))
    assert list(Draft202012Validator(closed).iter_errors(grown))


def _closed(node: Any, *, conditional: bool = False) -> Any:
    if isinstance(node, list):
        return [_closed(part, conditional=conditional) for part in node]
    if not isinstance(node, dict):
        return node
    out = {key: _closed(part, conditional=conditional or key in ("if", "then")) for key, part in node.items()}
    if "properties" in node and isinstance(node.get("type"), str | list) and not conditional:
        out["additionalProperties"] = False
    return out


def test_the_schema_is_itself_valid_and_every_field_is_described() -> None:
    schema = alert_schema()
    Draft202012Validator.check_schema(schema)
    properties = schema["properties"]["properties"]["properties"]
    undescribed = [name for name, part in properties.items() if not {"description", "const", "$ref"} & part.keys()]
    assert undescribed == ["links"]


def test_the_published_copy_of_the_schema_is_the_one_that_is_enforced() -> None:
    assert json.loads((DOCS / "alert.v1.schema.json").read_text()) == alert_schema()


def test_the_asyncapi_page_names_what_is_really_sent() -> None:
    page = yaml.safe_load((DOCS / "asyncapi.yaml").read_text())
    message = page["components"]["messages"]["alert"]
    headers = dict(make().to_message().headers)
    declared = message["headers"]["properties"]
    assert set(declared) == set(headers)
    assert sorted(message["headers"]["required"]) == sorted(headers)
    texts = {name: value.decode() for name, value in headers.items()}
    assert not list(Draft202012Validator(message["headers"]).iter_errors(texts))
    assert message["contentType"] == texts["content-type"]
    defaults = KafkaSinkSettings(type="kafka", bootstrap_servers=("127.0.0.1:9092",))
    channel = page["channels"]["alerts"]
    assert channel["address"] == channel["bindings"]["kafka"]["topic"] == defaults.topic
    assert channel["bindings"]["kafka"]["partitions"] == defaults.partitions
    assert channel["bindings"]["kafka"]["replicas"] == defaults.replication
    assert message["payload"]["schema"]["$ref"] == "alert.v1.schema.json"


@given(
    west=st.floats(-180, 179, allow_nan=False),
    south=st.floats(-90, 89, allow_nan=False),
    p_value=st.floats(0, 1),
    sequence=st.integers(1, 10**9),
    note=st.text(min_size=1).filter(lambda text: text.isprintable()),
)
def test_whatever_goes_in_comes_out_of_the_wire(
    west: float, south: float, p_value: float, sequence: int, note: str
) -> None:
    square = shapely.geometry.mapping(shapely.box(west, south, west + 1, south + 1))
    alert = make(replace(DETECTION, geometry=square, p_value=p_value), sequence=sequence, notes=(note,))
    read = json.loads(alert.to_message().value)
    assert read["properties"]["p_value"] == p_value
    assert read["properties"]["sequence"] == sequence
    assert read["properties"]["evidence"]["notes"] == [note]
    assert shapely.geometry.shape(read["geometry"]).bounds == pytest.approx(
        (west, south, west + 1, south + 1), abs=1e-7
    )
