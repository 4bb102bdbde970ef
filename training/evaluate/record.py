"""A judgement as files: JSON for machines, Markdown and pictures for people, each written whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RecordTable:
    """Rows of one kind."""

    name: str
    """Key in the JSON file."""
    title: str
    text: str
    """What the columns mean, for people."""
    rows: Sequence[Row]
    """All with the same keys. None is what cannot be said."""

    def to_markdown(self) -> list[str]:
        """Heading, text and table."""
        lines = [f"## {self.title}", "", self.text, ""]
        if not self.rows:
            return [*lines, "There is no row.", ""]
        names = list(self.rows[0])
        lines += [f"| {' | '.join(name.replace('_', ' ') for name in names)} |", "|" + "---|" * len(names)]
        lines += [f"| {' | '.join(_cell(row[name]) for name in names)} |" for row in self.rows]
        return [*lines, ""]


@dataclass(frozen=True, kw_only=True)
class Record:
    """All that is told of one judgement."""

    title: str
    command: str
    data: Mapping[str, Any]
    """Digests and numbers of what was judged on."""
    models: Mapping[str, Any]
    """Which bundle or runs were judged."""
    machine: Mapping[str, Any]
    date: str
    """ISO 8601, UTC."""
    settings: Mapping[str, Any]
    """Seeds included."""
    notes: Sequence[str]
    """Sentences that a reader of the tables should know."""
    tables: Sequence[RecordTable]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; what is undefined is None."""
        values = {name: value for name, value in asdict(self).items() if name != "tables"}
        plain: dict[str, Any] = _plain({**values, **{table.name: list(table.rows) for table in self.tables}})
        return plain

    def to_markdown(self, figures: Sequence[str] = ()) -> str:
        """The same for people, with the pictures of these file names."""
        told = [
            f"{name}: {', '.join(f'{key} {_cell(value)}' for key, value in part.items())}."
            for name, part in (("Data", self.data), ("Models", self.models), ("Machine", self.machine))
            if part
        ]
        lines = [f"# {self.title}", "", f"    {self.command}", "", f"{self.date}.", *told, ""]
        lines += [*(f"- {note}" for note in self.notes), ""] if self.notes else []
        for table in self.tables:
            lines += table.to_markdown()
        return "\n".join([*lines, *(f"![{name}]({name})" for name in figures), ""])

    def write(self, path: Path, figures: Mapping[str, bytes] | None = None) -> list[Path]:
        """Write the JSON file, and beside it Markdown of the same stem and PNG files; the JSON file comes last.

        Args:
            path: of the JSON file; its folder is made if need be.
            figures: PNG contents by what they show, which becomes part of their names.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures = {path.with_name(f"{path.stem}-{name}.png"): content for name, content in (figures or {}).items()}
        files = {
            **pictures,
            path.with_name(f"{path.stem}.md"): self.to_markdown([picture.name for picture in pictures]).encode(),
            path: (json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n").encode(),
        }
        for target, content in files.items():
            write_whole(target, content)
        return list(files)


def rounded(value: float | None, digits: int = 5) -> float | None:
    """A figure as it is told; None for what is no number."""
    return None if value is None or not math.isfinite(value) else round(float(value), digits)


def write_whole(target: Path, content: bytes) -> None:
    """Write a file so that a reader, or a kill, finds the old one or the new one, whole."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "/")
