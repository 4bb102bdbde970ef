"""What judging found, as a section of a bundle's model card; the card is no part of the bundle's identity."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.errors import TrainingDataInvalid
from training.evaluate.record import write_whole

BEGIN, END = "<!-- judged: begin -->", "<!-- judged: end -->"

Row = Mapping[str, Any]


def judged_section(reports: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of some reports of ``vigie evaluate ood``.

    Raises:
        TrainingDataInvalid: a report is none.
    """
    lines = ["## Judged", ""]
    for report in reports:
        try:
            lines += _report(report)
        except (KeyError, TypeError) as error:
            raise TrainingDataInvalid(
                f"no report of `vigie evaluate ood`: {error!r} is missing; give the JSON that it wrote"
            ) from error
    return "\n".join(lines)


def write_section(card: Path, section: str) -> None:
    """Put the section into a card, in place of an earlier one if there is one, else before *Limits*; whole or not.

    Raises:
        TrainingDataInvalid: the card is not there.
    """
    if not card.is_file():
        raise TrainingDataInvalid(f"there is no {card}; give a bundle that `vigie export` wrote")
    text = card.read_text(encoding="utf-8")
    block = f"{BEGIN}\n{section.strip()}\n{END}"
    if BEGIN in text and END in text:
        text = text[: text.index(BEGIN)] + block + text[text.index(END) + len(END) :]
    elif "\n## Limits\n" in text:
        text = text.replace("\n## Limits\n", f"\n{block}\n\n## Limits\n", 1)
    else:
        text = f"{text.rstrip()}\n\n{block}\n"
    write_whole(card, text.encode())


def read_report(path: Path) -> dict[str, Any]:
    """A report as ``vigie evaluate`` wrote it.

    Raises:
        TrainingDataInvalid: it is not there or no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingDataInvalid(
            f"{path} cannot be read as JSON ({error}); give what `vigie evaluate` wrote"
        ) from error
    if not isinstance(found, dict):
        raise TrainingDataInvalid(f"{path} holds no JSON object; give what `vigie evaluate` wrote")
    return found


def _report(report: Mapping[str, Any]) -> list[str]:
    data, settings = report["data"], report["settings"]
    folds = settings.get("folds")
    how = (
        "each event by a network that never saw it ("
        + "; ".join(f"{name}: {', '.join(events)}" for name, events in folds.items())
        + ") and a flood model fitted without it"
        if folds
        else f"the bundle `{report['bundle']['model']}` as it is"
    )
    lines = [
        f"### {data['images']} images, {data['events']} events: {how}",
        "",
        f"    {report['command']}",
        "",
        f"{report['date']}, {report['machine']['cores']} cores ({report['machine']['machine']}), folder digest "
        f"`{data['digest'][:16]}`. {data['flooded']} flooded and {data['dry']} dry tiles; the table is of the "
        f"{data['common']} tiles that every scorer ran on. AUROC, with the 95 % interval by event, and *within*: the "
        "mean over the images that have both kinds.",
        "",
    ]
    by_scorer: dict[str, dict[str, Row]] = {}
    for row in report["common"]:
        by_scorer.setdefault(row["scorer"], {})[row["protocol"]] = row
    lines += [
        "| scorer | kind | flooded-vs-dry | within | after-vs-before | pixel | NFE |",
        "|---|---|---|---|---|---|---|",
    ]
    order = sorted(by_scorer.items(), key=lambda item: -(item[1]["flooded-vs-dry"]["auroc"] or 0.0))
    for name, rows in order:
        dry = rows["flooded-vs-dry"]
        told = f"**{name}**" if name.startswith("shipped") else name
        pixel = rows["pixel"]["auroc"] if "pixel" in rows else None
        lines.append(
            f"| {told} | {dry['kind']} | {_auroc(dry)} | {_number(dry['auroc_within'])} | "
            f"{_auroc(rows['after-vs-before'])} | {_number(pixel)} | {dry['nfe']} |"
        )
    return [*lines, "", *_verdicts(report["differences"]), ""]


def _verdicts(differences: Sequence[Row]) -> list[str]:
    lines = []
    for each in differences:
        if each["scorer"].startswith("shipped") and each["difference"] is not None:
            interval = "–" if each["low"] is None else f"[{each['low']:+.3f}, {each['high']:+.3f}]"
            verdict = "excludes zero" if each["excludes_zero"] else "includes zero"
            looks = "of one look" if each["against"] == "one look" else "of all"
            lines.append(
                f"- {each['protocol']}, all tiles: `{each['scorer']}` {each['auroc']:.3f}, best control {looks} "
                f"`{each['control']}` {each['control_auroc']:.3f}; difference {each['difference']:+.3f} {interval}, "
                f"which {verdict}."
            )
    return lines


def _auroc(row: Row) -> str:
    if row["auroc"] is None:
        return "–"
    interval = "" if row["auroc_low"] is None else f" [{row['auroc_low']:.3f}, {row['auroc_high']:.3f}]"
    return f"{row['auroc']:.3f}{interval}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
