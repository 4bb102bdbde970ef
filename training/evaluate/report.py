"""A judgement as files: JSON for machines, Markdown and pictures for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.evaluate.comparison import JOINT_STRATA, STRATA, Difference, Knowledge
from training.evaluate.figures import is_shipped
from training.evaluate.protocol import FLOODED_FROM, PROTOCOLS, Protocol
from training.evaluate.record import write_whole
from training.evaluate.table import EventRow, Row

HEADINGS = {
    "flooded-vs-dry": "flooded tiles against dry tiles of the after-images",
    "after-vs-before": "flooded tiles against the same ground before",
    "pixel": "pixels of the after-images, map against mask",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that is told of one judgement."""

    data: Mapping[str, Any]
    """``digest`` of the folder, numbers of ``images``, ``events``, ``tiles`` and of the ``common`` tiles."""
    machine: Mapping[str, Any]
    date: str
    """ISO 8601, UTC."""
    bundle: Mapping[str, Any]
    """``name`` and ``model`` id."""
    command: str
    settings: Mapping[str, Any]
    notes: Sequence[str]
    """What a reader should know of how the folder was understood."""
    rows: Sequence[Row]
    """Each scorer on every tile that it ran on."""
    common: Sequence[Row]
    """All scorers on the tiles that all ran on."""
    differences: Sequence[Difference]
    knowledge: Sequence[Knowledge]
    per_event: Sequence[EventRow]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; what is undefined is None."""
        return {
            "data": dict(self.data),
            "machine": dict(self.machine),
            "date": self.date,
            "bundle": dict(self.bundle),
            "command": self.command,
            "settings": dict(self.settings),
            "notes": list(self.notes),
            "rows": [asdict(row) for row in self.rows],
            "common": [asdict(row) for row in self.common],
            "differences": [asdict(each) for each in self.differences],
            "knowledge": [asdict(each) for each in self.knowledge],
            "per_event": [asdict(each) for each in self.per_event],
        }

    def to_markdown(self, figures: Sequence[str]) -> str:
        """The same for people, with the pictures of these file names."""
        data = self.data
        lines = [
            "# Floods told from dry ground",
            "",
            f"{data['images']} images of {data['events']} events, {data['tiles']} complete tiles of "
            f"{self.settings['tile_px']} px: {data['flooded']} flooded (a share of {FLOODED_FROM:.0%} or more), "
            f"{data['dry']} dry. Folder digest `{data['digest'][:16]}`. Bundle `{self.bundle['name']}`, model "
            f"`{self.bundle['model']}`. {self.machine['cores']} cores ({self.machine['machine']}), "
            f"{self.machine['threads']} threads, {self.date}.",
            "",
            f"    {self.command}",
            "",
            "AUROC pools all tiles; *within* is the mean over images that have both kinds. Intervals of 95 % are "
            "bootstrapped by event. *Common* is the AUROC on the tiles that all scorers ran on, where alone they can "
            "be compared. Average precision (AP) depends on how many negatives there are.",
        ]
        lines += [f"- Note: {note}." for note in self.notes]
        for protocol in PROTOCOLS:
            lines += ["", f"## {protocol}: {HEADINGS[protocol]}", "", *self._sentences(protocol)]
            lines += ["", *self._table(protocol)]
        if self.knowledge:
            lines += ["", "## What each score knows beyond a control", "", *self._knowledge()]
        lines += ["", *(f"![{name}]({name})" for name in figures), ""]
        return "\n".join(lines)

    def _table(self, protocol: Protocol) -> list[str]:
        common = {row.scorer: row for row in self.common if row.protocol == protocol}
        rows = [row for row in self.rows if row.protocol == protocol]
        rows.sort(key=lambda row: -1.0 if row.auroc is None else row.auroc, reverse=True)
        table = [
            "| scorer | kind | AUROC | interval | within | AP | FPR95 | common | NFE | ms/tile | n+ | n− |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            name = f"**{row.scorer}**" if is_shipped(row.scorer) else row.scorer
            kind = f"*{row.kind}*" if row.kind == "control" else row.kind
            table.append(
                f"| {name} | {kind} | {_number(row.auroc)} | {_range(row.auroc_low, row.auroc_high)} | "
                f"{_number(row.auroc_within)} | {_number(row.aupr)} | {_number(row.fpr95)} | "
                f"{_number(common[row.scorer].auroc)} | {row.nfe} | {_number(row.ms_per_tile, 2)} | "
                f"{row.n_pos} | {row.n_neg} |"
            )
        return table

    def _sentences(self, protocol: Protocol) -> list[str]:
        told = [each for each in self.differences if each.protocol == protocol]
        shipped = [each for each in told if is_shipped(each.scorer)]
        best = [
            max((each for each in told if each.against == against), key=lambda each: each.auroc or 0.0, default=None)
            for against in ("one look", "any")
        ]
        chosen = shipped or [each for each in best if each is not None]
        if not chosen:
            return ["No scorer here is compared with a control."]
        return [f"- {sentence(each)}" for each in chosen]

    def _knowledge(self) -> list[str]:
        table = [
            f"*Within*: among pairs of tiles in one of {STRATA} quantile strata of the control, where 0.5 would be "
            f"nothing; where several controls are held level together, in one of {JOINT_STRATA} of each. *Pairs* is "
            "the share of pairs that lie so. *Fused* is the sum of the z-scores; *added* is its gain on the controls'.",
            "",
            "| scorer | beyond | protocol | within | interval | pairs | control | fused | added | interval |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        return table + [
            f"| {each.scorer} | {each.beyond} | {each.protocol} | {_number(each.within_strata)} | "
            f"{_range(each.within_low, each.within_high)} | {_number(each.within_share, 2)} | "
            f"{_number(each.reference_auroc)} | "
            f"{_number(each.fused_auroc)} | {_number(each.added)} | {_range(each.added_low, each.added_high)} |"
            for each in self.knowledge
        ]


def sentence(each: Difference) -> str:
    """Who wins, by how much, and whether the events agree."""
    looks = "of one look" if each.against == "one look" else "of all"
    ahead = "ahead of" if (each.difference or 0.0) > 0 else "not ahead of"
    if each.excludes_zero is None:
        sure = "with a single event there is no interval"
    else:
        where = f"interval {_range(each.low, each.high)} over {each.events} events"
        sure = f"the {where} {'excludes' if each.excludes_zero else 'includes'} zero"
    return (
        f"`{each.scorer}` ({_number(each.auroc)}) is {ahead} the best control {looks}, "
        f"`{each.control}` ({_number(each.control_auroc)}): difference {_number(each.difference)}; {sure} "
        f"({each.n_pos} against {each.n_neg})."
    )


def write_report(path: Path, report: Report, figures: Mapping[str, bytes]) -> list[Path]:
    """Write the JSON file, and beside it Markdown of the same stem and PNG files; each whole or not at all.

    Args:
        path: of the JSON file; its folder is made if need be.
        report: what is written.
        figures: PNG contents by what they show, which becomes part of their names.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = {path.with_name(f"{path.stem}-{name}.png"): content for name, content in figures.items()}
    text = json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n"
    files = {
        **pictures,
        path.with_name(f"{path.stem}.md"): report.to_markdown([picture.name for picture in pictures]).encode(),
        path: text.encode(),
    }
    for target, content in files.items():
        write_whole(target, content)
    return list(files)


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _range(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"
