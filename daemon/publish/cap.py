"""Alerts in the Common Alerting Protocol 1.2 (OASIS, 2010): Alert, Update and Cancel.

The first message of an incident is an *Alert*, later ones are *Updates*, and its end is a *Cancel*; each refers to
all earlier ones of the incident, which are found in the folder itself. A message is written once: its ``sent`` is the
time of that, and a repeat changes nothing. Nothing is signed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from daemon.publish.feature import exterior_rings, feature_of, file_name, revision_name, sensing_time
from daemon.publish.sinks import Message

NAMESPACE = "urn:oasis:names:tc:emergency:cap:1.2"
Status = Literal["Actual", "Exercise", "System", "Test", "Draft"]
_MESSAGE_TYPE = {"new": "Alert", "updated": "Update", "confirmed": "Update", "ended": "Cancel"}
_SEVERITY = {"extreme": "Extreme", "severe": "Severe", "moderate": "Moderate", "minor": "Minor"}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, kw_only=True)
class CapIdentity:
    """Who speaks, and how its messages are meant."""

    sender: str
    """Globally unique, without spaces, commas, ``<`` and ``&``: ``vigie@example.org``."""
    sender_name: str | None = None
    status: Status = "Test"
    restriction: str | None = None
    """Rule for a limited distribution; None: the messages are public."""
    valid_for: timedelta = timedelta(days=7)
    """How long after sensing a message is to be believed."""


class CapWriter:
    """Writes ``<incident>/<sequence>-<id>.xml``."""

    def __init__(
        self, identity: CapIdentity, *, now: Callable[[], datetime], write_whole: Callable[[Path, bytes], None]
    ) -> None:
        self._identity = identity
        self._now = now
        self._write_whole = write_whole

    def write(self, folder: Path, message: Message) -> None:
        """Write the message, unless it is there."""
        feature = feature_of(message)
        path = folder / file_name(feature["properties"]["incident"]) / f"{revision_name(feature)}.xml"
        if path.exists():
            return
        earlier = [each for each in sorted(path.parent.glob("[0-9]*.xml")) if each.name < path.name]
        references = [_reference(each) for each in earlier]
        self._write_whole(path, cap_alert(feature, self._identity, sent=self._now(), references=references))


def cap_alert(feature: Mapping[str, Any], identity: CapIdentity, *, sent: datetime, references: list[str]) -> bytes:
    """The CAP document of an alert, UTF-8.

    Args:
        feature: the alert's GeoJSON Feature.
        identity: who speaks.
        sent: when, aware.
        references: ``sender,identifier,sent`` of each earlier message of the incident.
    """
    said = feature["properties"]
    root = ElementTree.Element("alert", xmlns=NAMESPACE)
    # The order of elements is the schema's.
    _add(root, "identifier", feature["id"])
    _add(root, "sender", identity.sender)
    _add(root, "sent", _time(sent))
    _add(root, "status", identity.status)
    _add(root, "msgType", _MESSAGE_TYPE[said["state"]])
    _add(root, "source", "Vigie")
    _add(root, "scope", "Public" if identity.restriction is None else "Restricted")
    _add(root, "restriction", identity.restriction)
    _add(root, "references", " ".join(references) or None)
    _add(root, "incidents", file_name(said["incident"]))
    info = ElementTree.SubElement(root, "info")
    flood, ended = said["kind"] == "flood", said["state"] == "ended"
    seen = sensing_time(feature)
    _add(info, "language", "en")
    _add(info, "category", "Met" if flood else "Env")
    _add(info, "event", "Flood" if flood else "Unusual change of the ground")
    _add(info, "responseType", "None" if ended else "Assess")
    # A satellite saw it hours ago, so nothing here is immediate.
    _add(info, "urgency", "Past" if ended else "Expected" if flood else "Unknown")
    _add(info, "severity", _SEVERITY.get(str(said.get("severity", "")).lower(), "Unknown"))
    _add(info, "certainty", "Observed" if said["state"] == "confirmed" else "Likely" if flood else "Possible")
    _add(info, "effective", _time(seen))
    _add(info, "onset", _time(seen))
    _add(info, "expires", _time(seen + identity.valid_for))
    _add(info, "senderName", identity.sender_name)
    _add(info, "headline", _headline(said))
    _add(info, "description", _description(said))
    web = next((link["href"] for link in said["links"] if link["href"].startswith("https://")), None)
    _add(info, "web", web)
    numbers = {name: said[name] for name in ("kind", "sequence", "affected_area_m2", "tile_count", "p_value", "score")}
    for name, value in {**numbers, "model": f"{said['model']['name']}:{said['model']['hash'][:16]}"}.items():
        if value is not None:
            parameter = ElementTree.SubElement(info, "parameter")
            _add(parameter, "valueName", f"vigie:{name}")
            _add(parameter, "value", str(value))
    area = ElementTree.SubElement(info, "area")
    _add(area, "areaDesc", said["area"])
    for ring in exterior_rings(feature["geometry"]):
        # CAP wants latitude first, the first point again at the end, as GeoJSON has it.
        _add(area, "polygon", " ".join(f"{latitude:.7g},{longitude:.8g}" for longitude, latitude in ring))
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)
    return document + b"\n"


def _add(parent: ElementTree.Element, name: str, text: str | None) -> None:
    if text is not None:
        ElementTree.SubElement(parent, name).text = _NOT_XML.sub("�", text)


def _time(moment: datetime) -> str:
    """CAP wants whole seconds and UTC as ``-00:00`` (section 3.3.2)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S-00:00")


def _reference(path: Path) -> str:
    root = ElementTree.parse(path).getroot()
    return ",".join(root.findtext(f"{{{NAMESPACE}}}{name}", "") for name in ("sender", "identifier", "sent"))


def _headline(said: Mapping[str, Any]) -> str:
    what = "Flood" if said["kind"] == "flood" else "Unusual change"
    states = {"new": "seen", "updated": "seen again", "confirmed": "confirmed", "ended": "no longer seen"}
    return f"{what} {states[said['state']]} in {said['area']}"


def _description(said: Mapping[str, Any]) -> str:
    lines = [f"Seen from above on {said['sensing_time']}; {said['affected_area_m2'] / 1e6:.2f} km² are affected."]
    if said["p_value"] is not None:
        lines.append(f"Of {1 / max(said['p_value'], 1e-9):.0f} tiles on which nothing happened, one looks as strange.")
    lines += said["evidence"]["notes"]
    lines.append("Found by a machine; nobody has checked it.")
    return "\n".join(lines)
