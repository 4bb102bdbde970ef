"""CAP, GeoJSON and webhooks against software of others: WMO's CAP validator, geojson-pydantic, Standard Webhooks."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import antimeridian
import numpy as np
import pytest
import shapely
from capvalidator import check_schema, get_dates
from geojson_pydantic import Feature, FeatureCollection
from geojson_pydantic.geometries import MultiPolygon, Polygon
from shapely.geometry import mapping, shape
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from daemon.adapters.folder_sink import FolderSink
from daemon.adapters.webhook import WebhookSettings, WebhookSink, decode_secret
from daemon.adapters.whole_file import write_whole
from daemon.backoff import Backoff
from daemon.clock import ManualClock, SystemClock
from daemon.errors import ConfigError
from daemon.publish.alerts import MAX_VERTICES, Alert, lifecycle_id
from daemon.publish.cap import CapIdentity, CapWriter, cap_alert
from daemon.publish.geojson import COLLECTION, GeoJsonWriter
from daemon.publish.sinks import structured_event
from daemon.settings import load_settings
from engine.grid import Cell, union_lonlat
from tests.servers.webhook import WebhookReceiver
from tests.unit.test_alerts import AREA, DETECTION, SCENE, make

CAP = "{urn:oasis:names:tc:emergency:cap:1.2}"
IDENTITY = CapIdentity(sender="vigie@example.org", sender_name="Example & flood desk")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def life() -> list[Alert]:
    """The four messages of one incident."""
    new = make(sequence=1)
    updated = make(sequence=2, state="updated", reference_id="ref-2")
    confirmed = replace(updated, alert_id=lifecycle_id(incident="i", state="confirmed", sequence=3), sequence=3)
    bare = dict.fromkeys(("scene", "score", "p_value", "threshold", "calibration", "budget", "reference_id"))
    ended = replace(
        new,
        **bare,
        state="ended",
        sequence=4,
        tiles=(),
        alert_id=lifecycle_id(incident="i", state="ended", sequence=4),
        evidence={"odeed": None, "xstars": None, "xstars_reason": "-", "water": None, "water_reason": "-"},
    )
    return [new, updated, replace(confirmed, state="confirmed"), ended]


def across_the_date_line() -> Alert:
    """An alert whose ground lies on both sides of 180°."""
    # Taveuni, Fiji: zone 60 south reaches its end there.
    cells = tuple(
        Cell(epsg=32760, level=0, tile_px=64, col=col, row=row)
        for col in range(1270, 1290)
        for row in range(12750, 12754)
    )
    outline = union_lonlat(cells)
    assert outline.geom_type == "MultiPolygon"
    return make(replace(DETECTION, geometry=mapping(outline), cell_ids=tuple(sorted(cell.id for cell in cells))))


class TestCap:
    def test_the_life_of_an_incident_is_alert_updates_and_a_cancel_that_the_oasis_schema_takes(
        self, tmp_path: Path
    ) -> None:
        clock = ManualClock(NOON)
        sink = FolderSink(tmp_path, CapWriter(IDENTITY, now=clock.now, write_whole=write_whole), name="cap")
        for alert in life():
            assert sink.send([alert.to_message()])[0].delivered
            clock.advance(3600)
        files = sorted(tmp_path.rglob("*.xml"))
        for path in files:
            told = check_schema(path.read_bytes())
            assert told.passed, told.message
        roots = [ElementTree.parse(path).getroot() for path in files]
        assert [root.findtext(f"{CAP}msgType") for root in roots] == ["Alert", "Update", "Update", "Cancel"]
        certainty = [root.findtext(f"{CAP}info/{CAP}certainty") for root in roots]
        assert certainty == ["Likely", "Likely", "Observed", "Likely"]
        assert [root.findtext(f"{CAP}info/{CAP}urgency") for root in roots] == ["Expected"] * 3 + ["Past"]
        # Each refers to all before it, by what those say of themselves.
        named = [
            ",".join(root.findtext(f"{CAP}{part}") or "" for part in ("sender", "identifier", "sent")) for root in roots
        ]
        assert [(root.findtext(f"{CAP}references") or "").split() for root in roots] == [
            [],
            *(named[:n] for n in (1, 2, 3)),
        ]
        assert [root.findtext(f"{CAP}sent") for root in roots[:2]] == [
            "2026-03-01T12:00:00-00:00",
            "2026-03-01T13:00:00-00:00",
        ]

    def test_a_repeat_keeps_the_first_message_whole_and_its_time(self, tmp_path: Path) -> None:
        clock = ManualClock(NOON)
        sink = FolderSink(tmp_path, CapWriter(IDENTITY, now=clock.now, write_whole=write_whole), name="cap")
        for _ in range(2):
            sink.send([alert.to_message() for alert in life()])
            clock.advance(60)
        assert [path.name.startswith(".") for path in tmp_path.rglob("*.*")] == [False] * 4
        assert {get_dates(path.read_bytes()).sent for path in tmp_path.rglob("*.xml")} == {"2026-03-01T12:00:00-00:00"}

    def test_what_it_says_is_what_the_alert_says(self) -> None:
        feature = across_the_date_line().feature()
        document = cap_alert(feature, replace(IDENTITY, status="Actual", restriction="staff"), sent=NOON, references=[])
        assert check_schema(document).passed
        root = ElementTree.fromstring(document)
        assert root.findtext(f"{CAP}identifier") == feature["id"]
        assert (root.findtext(f"{CAP}status"), root.findtext(f"{CAP}scope")) == ("Actual", "Restricted")
        info = root.find(f"{CAP}info")
        assert info is not None
        assert info.findtext(f"{CAP}senderName") == "Example & flood desk"
        assert info.findtext(f"{CAP}expires") == "2026-01-09T10:56:21-00:00"
        rings = [
            [tuple(map(float, pair.split(",")))[::-1] for pair in (polygon.text or "").split()]
            for polygon in info.iter(f"{CAP}polygon")
        ]
        assert all(ring[0] == ring[-1] for ring in rings)
        drawn = shapely.MultiPolygon([shapely.Polygon(ring) for ring in rings])
        exact = shape(feature["geometry"])
        assert drawn.symmetric_difference(exact).area < 1e-3 * exact.area
        assert len(rings) == 2

    def test_text_that_xml_cannot_hold_is_replaced(self) -> None:
        feature = make(notes=("bell \x07 and <tag> & more",)).feature()
        document = cap_alert(feature, IDENTITY, sent=NOON, references=[])
        assert check_schema(document).passed
        assert "bell � and <tag> & more" in "".join(ElementTree.fromstring(document).itertext())


class TestGeoJson:
    def test_files_are_features_and_the_map_holds_the_newest_of_each_incident(self, tmp_path: Path) -> None:
        sink = FolderSink(tmp_path, GeoJsonWriter(write_whole), name="geojson")
        other = make(incident="another", scene=replace(SCENE, sensing_time=SCENE.sensing_time - timedelta(days=1)))
        first, second, third, fourth = life()
        for alert in (first, other, third, second, fourth, second):
            assert sink.send([alert.to_message()])[0].delivered
        for path in tmp_path.glob("*/*.geojson"):
            feature = Feature[Polygon | MultiPolygon, dict[str, Any]].model_validate_json(path.read_bytes())
            assert feature.bbox is not None
            assert feature.bbox == shape(json.loads(path.read_bytes())["geometry"]).bounds
        shown = FeatureCollection.model_validate_json((tmp_path / COLLECTION).read_bytes())
        assert [(one.id, one.properties["sequence"]) for one in shown.features] == [
            (other.alert_id, 1),
            (fourth.alert_id, 4),
        ]

    def test_an_outline_over_the_date_line_is_cut_as_the_antimeridian_package_cuts_it(self, tmp_path: Path) -> None:
        alert = across_the_date_line()
        FolderSink(tmp_path, GeoJsonWriter(write_whole), name="geojson").send([alert.to_message()])
        (feature,) = json.loads((tmp_path / COLLECTION).read_bytes())["features"]
        outline = shape(feature["geometry"])
        # The same ground drawn past 180°, as one piece, for others to cut.
        moved = [
            shapely.transform(part, lambda points: points + np.array([360.0, 0.0])) if part.bounds[0] < 0 else part
            for part in outline.geoms
        ]
        whole = shapely.orient_polygons(shapely.union_all(moved))
        cut = shape(antimeridian.fix_geojson(mapping(whole)))
        assert cut.symmetric_difference(outline).area < 1e-6 * outline.area
        west, _, east, _ = feature["bbox"]
        assert west > east, "RFC 7946, section 5.2"
        assert feature["bbox"] == list(antimeridian.bbox(feature["geometry"]))
        assert all(-180 <= x <= 180 for part in outline.geoms for x, _ in part.exterior.coords)
        assert all(part.exterior.is_ccw for part in outline.geoms)

    def test_too_many_vertices_on_both_sides_of_the_date_line_do_not_become_the_whole_world(self) -> None:
        teeth = np.linspace(0.0, 0.1, MAX_VERTICES)
        comb = [(float(x), 0.05 * (n % 2)) for n, x in enumerate(teeth)]
        west = shapely.Polygon([*((x - 180.0, y) for x, y in comb), (-179.9, 0.1), (-180.0, 0.1)])
        east = shapely.Polygon([*((180.0 - x, y) for x, y in comb), (179.9, 0.1), (180.0, 0.1)])
        sent = shape(
            make(replace(DETECTION, geometry=mapping(shapely.MultiPolygon([west, east])))).feature()["geometry"]
        )
        assert shapely.get_num_coordinates(sent) < 20
        assert sent.geom_type == "MultiPolygon"
        assert sent.area == pytest.approx(2 * 0.1 * 0.1, rel=1e-3)


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as receiver:
        yield receiver


class TestWebhook:
    SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()

    def sink(self, url: str, tmp_path: Path, **changes: Any) -> WebhookSink:
        secret = tmp_path / "secret"
        secret.write_text(self.SECRET + "\n")
        fast = Backoff(base_s=0.001, cap_s=0.01)
        settings = WebhookSettings(**{"url": url, "secret_file": secret, "backoff": fast, "deadline_s": 5.0, **changes})
        return WebhookSink(settings, name="desk", clock=SystemClock(), rng=random.Random(0))

    def test_the_signature_is_one_that_standard_webhooks_verifies(
        self, receiver: WebhookReceiver, tmp_path: Path
    ) -> None:
        alert = make(area=replace(AREA, name="Évian"))
        sink = self.sink(receiver.url, tmp_path)
        assert sink.send([alert.to_message()])[0].delivered
        sink.close()
        (post,) = receiver.posts
        assert Webhook(self.SECRET).verify(post.body, post.headers) == structured_event(alert.to_message())
        with pytest.raises(WebhookVerificationError):
            Webhook(self.SECRET).verify(post.body.replace(b"flood", b"flooD"), post.headers)
        with pytest.raises(WebhookVerificationError):
            Webhook("whsec_" + base64.b64encode(bytes(32)).decode()).verify(post.body, post.headers)
        assert post.headers["webhook-id"] == alert.alert_id
        assert post.headers["Content-Type"].startswith("application/cloudevents+json")

    def test_a_receiver_that_fails_is_tried_again_and_gets_each_alert_in_order(
        self, receiver: WebhookReceiver, tmp_path: Path
    ) -> None:
        receiver.faults.extend([(503, {}), (0, {}), (204, {}), (429, {"Retry-After": "0"}), (500, {})])
        sink = self.sink(receiver.url, tmp_path)
        alerts = life()[:3]
        assert all(result.delivered for result in sink.send([alert.to_message() for alert in alerts]))
        sink.close()
        assert [post.headers["webhook-id"] for post in receiver.accepted] == [alert.alert_id for alert in alerts]
        assert [post.status for post in receiver.posts] == [503, 0, 204, 429, 500, 204, 204]

    def test_it_waits_as_long_as_it_is_asked_to_or_gives_up_before(
        self, receiver: WebhookReceiver, tmp_path: Path
    ) -> None:
        receiver.faults.append((429, {"Retry-After": "3600"}))
        sink = self.sink(receiver.url, tmp_path)
        (result,) = sink.send([make().to_message()])
        sink.close()
        assert not result.delivered
        assert not result.refused
        assert len(receiver.posts) == 1

    @pytest.mark.parametrize(
        ("status", "refused"), [(400, True), (422, True), (401, False), (404, False), (302, False)]
    )
    def test_only_what_is_about_the_message_refuses_it(
        self, receiver: WebhookReceiver, tmp_path: Path, status: int, refused: bool
    ) -> None:
        receiver.faults.extend([(status, {"Location": receiver.url})] * 50)
        sink = self.sink(f"{receiver.url}/secret-token", tmp_path, deadline_s=0.02)
        (result,) = sink.send([make().to_message()])
        sink.close()
        assert result.refused == refused
        assert str(status) in str(result.error)
        assert "secret-token" not in str(result.error)
        # No redirect was followed: every request was a POST to the address given.
        assert {post.path for post in receiver.posts} == {"/alerts/secret-token"}

    @pytest.mark.parametrize("text", ["", "plain", "whsec_!!!", "whsec_c2hvcnQ=", base64.b64encode(bytes(32)).decode()])
    def test_a_secret_that_is_none_is_told(self, text: str, receiver: WebhookReceiver, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="whsec_"):
            decode_secret(text)
        sink = self.sink(receiver.url, tmp_path, deadline_s=0.0)
        (tmp_path / "secret").write_text(text)
        assert "whsec_" in str(sink.send([make().to_message()])[0].error)
        assert receiver.posts == []


@pytest.mark.parametrize(
    ("sink", "told"),
    [
        ({"type": "webhook", "url": "http://alerts.example.org/x"}, "use https"),
        ({"type": "webhook", "url": "ftp://alerts.example.org"}, "use https"),
        ({"type": "webhook", "url": "https://a.example", "secret_file": "none"}, "there is no file"),
        ({"type": "cap", "folder": "cap", "sender": "two words"}, "sender"),
        ({"type": "cap", "folder": "cap"}, "sender"),
        ({"type": "geojson"}, "folder"),
    ],
)
def test_a_sink_that_cannot_work_is_told_at_the_start(sink: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = tmp_path / "vigie.yaml"
    path.write_text(json.dumps({"sinks": [sink]}))
    with pytest.raises(ConfigError, match=told):
        load_settings(path, {})
