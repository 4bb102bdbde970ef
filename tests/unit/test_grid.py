"""The cell grid: an area is covered exactly once, levels nest exactly, ids round-trip."""

from __future__ import annotations

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from engine.grid import (
    Cell,
    cells_over,
    cells_over_utm,
    gsd_of_level,
    level_for_gsd,
    to_lonlat,
    to_utm,
    union_lonlat,
    utm_epsg_for,
)

LAHINCH = shapely.box(-9.40, 52.90, -9.30, 52.96)

cells = st.builds(
    Cell,
    epsg=st.sampled_from([32601, 32629, 32660, 32701, 32733]),
    level=st.integers(0, 6),
    tile_px=st.sampled_from([32, 64, 128]),
    col=st.integers(-5, 20_000),
    row=st.integers(-5, 200_000),
)


@given(cell=cells)
def test_an_id_round_trips(cell: Cell) -> None:
    assert Cell.parse(cell.id) == cell


@pytest.mark.parametrize("text", ["", "32629-0-64-812", "4326-0-64-1-1", "32629-7-64-1-1", "32629-0-64-1-1 ", "a-b"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cell id|UTM zone"):
        Cell.parse(text)


@given(cell=cells.filter(lambda cell: cell.level < 6))
def test_four_children_fill_their_parent_exactly(cell: Cell) -> None:
    children = cell.children()
    assert {child.parent() for child in children} == {cell}
    assert shapely.union_all([child.polygon for child in children]).equals(cell.polygon)
    assert sum(child.area_m2 for child in children) == cell.area_m2


def test_a_distant_parent_is_the_parent_of_parents() -> None:
    cell = Cell(epsg=32629, level=4, tile_px=64, col=-3, row=9)
    assert cell.parent(1) == cell.parent().parent().parent()
    with pytest.raises(ValueError, match="no parent"):
        cell.parent(5)


def test_the_transform_puts_the_first_pixel_at_the_north_west_corner() -> None:
    cell = Cell(epsg=32629, level=0, tile_px=64, col=745, row=9160)
    assert cell.transform == (10.0, 0.0, 745 * 640.0, 0.0, -10.0, 9161 * 640.0)
    assert cell.bounds == (476800.0, 5862400.0, 477440.0, 5863040.0)


def test_neighbours_are_the_eight_around() -> None:
    cell = Cell(epsg=32629, level=2, tile_px=64, col=10, row=20)
    block = shapely.union_all([other.polygon for other in cell.neighbours()])
    assert len(set(cell.neighbours())) == 8
    assert block.area == 8 * cell.area_m2
    assert not block.intersection(cell.polygon).area


@settings(max_examples=25, deadline=None)
@given(
    west=st.floats(-179.0, 178.0),
    south=st.floats(-70.0, 70.0),
    width=st.floats(0.002, 0.03),
    height=st.floats(0.002, 0.03),
    level=st.integers(0, 2),
)
def test_cells_cover_an_area_once_and_nothing_beside_it(
    west: float, south: float, width: float, height: float, level: int
) -> None:
    area = shapely.box(west, south, west + width, south + height)
    epsg = utm_epsg_for(west + width / 2, south + height / 2)
    found = cells_over(area, epsg, level, 64)
    ground = to_utm(area, epsg)
    union = shapely.union_all([cell.polygon for cell in found])

    assert len(set(found)) == len(found)
    assert union.area == pytest.approx(sum(cell.area_m2 for cell in found), rel=1e-12)
    assert ground.difference(union).area < 1e-6
    assert all(cell.polygon.intersection(ground).area > 0 for cell in found)


def test_an_area_that_ends_on_a_cell_edge_takes_no_cell_beyond_it() -> None:
    area = shapely.box(640.0, 1280.0, 1920.0, 1920.0)
    found = cells_over_utm(area, 32629, 0, 64)
    assert [(cell.col, cell.row) for cell in found] == [(1, 2), (2, 2)]


def test_cells_come_from_north_to_south_and_west_to_east() -> None:
    found = cells_over(LAHINCH, 32629, 0, 64)
    assert [(-cell.row, cell.col) for cell in found] == sorted((-cell.row, cell.col) for cell in found)


def test_overlapping_parts_of_one_area_give_each_cell_once() -> None:
    twice = shapely.union_all([LAHINCH, shapely.box(-9.36, 52.92, -9.28, 52.98)])
    found = cells_over(twice, 32629, 0, 64)
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("lon", "lat", "epsg"),
    [
        (-9.35, 52.93, 32629),
        (-180.0, 10.0, 32601),
        (180.0, 10.0, 32601),
        (179.99, -10.0, 32760),
        (5.3, 60.4, 32632),  # Bergen: the widened zone of south-west Norway
        (15.6, 78.2, 32633),  # Longyearbyen: the widened zones of Svalbard
        (-0.5, -0.1, 32730),
    ],
)
def test_the_zone_of_a_place(lon: float, lat: float, epsg: int) -> None:
    assert utm_epsg_for(lon, lat) == epsg


def test_beyond_utm_there_is_no_zone() -> None:
    with pytest.raises(ValueError, match="84° N"):
        utm_epsg_for(0.0, 85.0)


@pytest.mark.parametrize(
    ("gsd_m", "level"),
    [(10.0, 0), (20.0, 0), (60.0, 0), (8.9, 0), (7.0, 1), (2.5, 2), (0.6, 4), (0.3, 5), (0.05, 6)],
)
def test_the_level_is_the_nearest_power(gsd_m: float, level: int) -> None:
    assert level_for_gsd(gsd_m) == level


def test_the_pixel_of_a_level_is_exact() -> None:
    assert [gsd_of_level(k) for k in range(7)] == [10.0, 5.0, 2.5, 1.25, 0.625, 0.3125, 0.15625]


def test_a_cell_on_the_antimeridian_is_cut_at_180_degrees() -> None:
    forward = Transformer.from_crs(4326, 32760, always_xy=True)
    easting, northing = forward.transform(180.0, -17.0)
    cell = Cell(epsg=32760, level=0, tile_px=64, col=int(easting // 640), row=int(northing // 640))
    whole = cell.lonlat
    assert whole.geom_type == "MultiPolygon"
    west, _, east, _ = whole.bounds
    assert (west, east) == (-180.0, 180.0)
    assert all(part.bounds[2] - part.bounds[0] < 0.01 for part in whole.geoms)
    assert all(part.exterior.is_ccw for part in whole.geoms)


def test_an_area_written_past_180_degrees_is_the_same_area() -> None:
    past = shapely.box(179.95, -17.05, 180.05, -16.95)
    split = shapely.MultiPolygon(
        [shapely.box(179.95, -17.05, 180.0, -16.95), shapely.box(-180.0, -17.05, -179.95, -16.95)]
    )
    assert cells_over(past, 32760, 0) == cells_over(split, 32760, 0)


def test_a_cell_comes_back_from_lonlat() -> None:
    cell = Cell(epsg=32629, level=0, tile_px=64, col=745, row=9160)
    back = to_utm(cell.lonlat, 32629)
    assert (
        back.symmetric_difference(cell.polygon).area < 5.0
    )  # edges are straight in lon/lat there: 0.001 % of the cell
    assert cell.geojson["type"] == "Polygon"
    assert to_lonlat(cell.polygon, 32629).exterior.is_ccw


def test_an_area_far_from_the_zone_has_no_cells() -> None:
    assert cells_over(shapely.box(100.0, 10.0, 100.1, 10.1), 32629, 0) == ()


def test_a_request_for_too_many_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="use a smaller one"):
        cells_over(shapely.box(-12.0, 40.0, -6.0, 60.0), 32629, 4)


def test_the_ground_of_two_cells_is_one_piece() -> None:
    cell = Cell(epsg=32629, level=0, tile_px=64, col=745, row=9160)
    east = Cell(epsg=32629, level=0, tile_px=64, col=746, row=9160)
    assert union_lonlat((cell, east)).geom_type == "Polygon"
    with pytest.raises(ValueError, match="one UTM zone"):
        union_lonlat((cell, Cell(epsg=32630, level=0, tile_px=64, col=1, row=1)))
