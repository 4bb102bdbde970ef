from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import mapping, shape

from daemon.scenes import Scene
from daemon.score.incidents import Assignment, IncidentRules, assign
from daemon.store.records import IncidentRow
from engine.detect import Detection, Kind
from engine.grid import Cell, union_lonlat

START = datetime(2025, 3, 1, 10, tzinfo=UTC)


def cell(col: int, row: int, level: int = 0) -> Cell:
    return Cell(epsg=32632, level=level, tile_px=64, col=col, row=row)


def detection(*cells: Cell, kind: Kind = "flood") -> Detection:
    return Detection(
        kind=kind,
        anchor_cell=min(c.id for c in cells),
        cell_ids=tuple(sorted(c.id for c in cells)),
        geometry=mapping(union_lonlat(cells)),
        area_m2=sum(c.area_m2 for c in cells),
        score=9.0,
        p_value=0.001,
        threshold=5.0,
        calibration="place",
        extrapolated=False,
        evidence={},
    )


def scene(day: float, name: str = "s") -> Scene:
    return Scene(
        identity=f"{name}-{day}",
        version="0" * 16,
        catalog="c",
        collection="sentinel-2-l2a",
        item_id=f"{name}-{day}",
        sensor="sentinel-2-l2a",
        platform=None,
        sensing_time=START + timedelta(days=day),
        grid_code=None,
        geometry={},
        cloud_cover_percent=None,
        updated=None,
        item={},
    )


def after(*scenes: tuple[Scene, list[Detection]]) -> tuple[list[IncidentRow], list[Assignment]]:
    incidents: dict[str, IncidentRow] = {}
    sent: list[Assignment] = []
    for one, detections in scenes:
        for assignment in assign(detections, list(incidents.values()), scene=one, area="valley", rules=IncidentRules()):
            incidents[assignment.incident.incident_key] = assignment.incident
            sent.append(assignment)
    return list(incidents.values()), sent


def test_the_first_detection_opens_an_incident() -> None:
    incidents, (sent,) = after((scene(0), [detection(cell(800, 7800))]))
    assert (sent.state, sent.incident.sequence) == ("new", 1)
    assert incidents == [sent.incident]


def test_later_passes_over_the_same_ground_update_it() -> None:
    incidents, sent = after(
        (scene(0), [detection(cell(800, 7800))]),
        (scene(5), [detection(cell(801, 7801), kind="anomaly")]),
        (scene(10), [detection(cell(802, 7801))]),
    )
    assert [(a.state, a.incident.sequence) for a in sent] == [("new", 1), ("updated", 2), ("updated", 3)]
    (incident,) = incidents
    assert incident.kind == "flood"
    assert len(incident.cells) == 3
    assert incident.last_sensing_time == START + timedelta(days=10)


def test_an_aerial_pass_joins_the_incident_of_the_satellite() -> None:
    fine = cell(800 * 4 + 1, 7800 * 4 + 2, level=2)
    incidents, sent = after((scene(0), [detection(cell(800, 7800))]), (scene(1, "air"), [detection(fine)]))
    assert len(incidents) == 1
    assert sent[1].state == "updated"


def test_far_away_or_long_after_is_another_incident() -> None:
    incidents, _ = after(
        (scene(0), [detection(cell(800, 7800))]),
        (scene(1), [detection(cell(810, 7800))]),
        (scene(60), [detection(cell(800, 7800))]),
    )
    assert len(incidents) == 3


def test_a_late_scene_joins_without_changing_the_key() -> None:
    incidents, sent = after((scene(5), [detection(cell(800, 7800))]), (scene(0), [detection(cell(800, 7800))]))
    assert len(incidents) == 1
    assert sent[0].incident.incident_key == sent[1].incident.incident_key
    assert incidents[0].first_sensing_time == START


@settings(max_examples=30, deadline=None)
@given(st.permutations([detection(cell(800 + 3 * i, 7800)) for i in range(4)]))
def test_keys_do_not_depend_on_the_order_of_detections(order: list[Detection]) -> None:
    _, sent = after((scene(0), order))
    _, plain = after((scene(0), sorted(order, key=lambda d: d.anchor_cell)))
    assert [a.incident.incident_key for a in sent] == [a.incident.incident_key for a in plain]


def test_the_outline_grows() -> None:
    incidents, _ = after((scene(0), [detection(cell(800, 7800))]), (scene(1), [detection(cell(801, 7800))]))
    outline = shape(dict(incidents[0].geometry))
    assert outline.is_valid
    assert outline.contains(cell(801, 7800).lonlat.centroid)
