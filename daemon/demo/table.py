"""Alerts as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from shapely.geometry import shape

_KIND_STYLES = {"flood": "bold blue", "anomaly": "bold dark_orange"}


def alert_table(features: Iterable[Mapping[str, Any]], *, title: str = "Alerts") -> Table:
    """A table of alerts, each the GeoJSON Feature of a message as read back from a topic, by sensing time.

    Absent and null values are shown as a dash, so that a message of a later minor version can still be read.
    """
    table = Table(title=title, title_justify="left", header_style="bold", row_styles=("", "on grey7"), expand=False)
    numbers = {"Tiles", "Area ha", "p-value", "Water gain"}
    columns = (
        "Seen (UTC)", "Kind", "State", "Place", "Sensor", "Tiles", "Area ha", "p-value", "Judged by", "Water gain",
        "Incident",
    )  # fmt: skip
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", no_wrap=name in ("Kind", "State"))
    for row in sorted(map(_row, features)):
        kind = row[1]
        style = _KIND_STYLES.get(kind, "bold")
        table.add_row(row[0], f"[{style}]{kind}[/]", *row[2:])
    return table


def print_alerts(features: Sequence[Mapping[str, Any]], console: Console, *, source: str) -> None:
    """Print the table, or say that there is nothing; ``source`` says where the messages were read from."""
    if not features:
        console.print(f"No alerts in {source}.")
        return
    count = f"{len(features)} alert{'s' if len(features) != 1 else ''}"
    console.print(alert_table(features, title=f"{count} read back from {source}"))


def _row(feature: Mapping[str, Any]) -> tuple[str, ...]:
    found = feature.get("properties") or {}
    water = (found.get("evidence") or {}).get("water") or {}
    calibration = found.get("calibration") or {}
    level = str(calibration.get("level") or "-")
    looks = calibration.get("looks")
    judged = f"{level}, {looks} looks" if level == "place" and looks else level
    area_m2 = found.get("affected_area_m2")
    gain = water.get("gain")
    return (
        str(found.get("sensing_time") or "-").replace("T", " ")[:16],
        str(found.get("kind") or "-"),
        str(found.get("state") or "-"),
        _place(str(found.get("area") or "-"), feature.get("geometry")),
        str((found.get("scene") or {}).get("sensor") or "-"),
        _number(found.get("tile_count"), "d"),
        _number(None if area_m2 is None else area_m2 / 1e4, ",.0f"),
        _number(found.get("p_value"), ".2g") + (" *" if calibration.get("extrapolated") else ""),
        judged,
        _number(None if gain is None else 100 * gain, "+.0f") + ("" if gain is None else " %"),
        str(found.get("incident") or "-")[:13],
    )


def _place(area: str, geometry: Mapping[str, Any] | None) -> str:
    """The area's name and the middle of the alert, which is what people type into a map."""
    if not geometry:
        return area
    middle = shape(dict(geometry)).representative_point()
    north, east = ("N" if middle.y >= 0 else "S"), ("E" if middle.x >= 0 else "W")
    return f"{area} {abs(middle.y):.3f}°{north} {abs(middle.x):.3f}°{east}"


def _number(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)
