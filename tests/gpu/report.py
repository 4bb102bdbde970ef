"""The report of `make gpu-check` as a page."""

from __future__ import annotations

from typing import Any


def markdown(report: dict[str, Any]) -> str:
    """Markdown of a report."""
    lines = ["# GPU check", "", f"**{'Passed' if report['passed'] else 'Not passed'}.**", ""]
    lines += [f"- {name}: {value}" for name, value in report["machine"].items()]
    lines += ["", "## Opened and compared with the golden batch", ""]
    lines += _table(
        ("family", "way", "opened in", "parity"),
        [(row["family"], row["way"], f"{row.get('seconds_to_open', '–')} s", _parity(row)) for row in report["opened"]],
    )
    lines += ["", "## Forward pass, host to host", ""]
    lines += _table(
        ("family", "network", "batch", "way", "images/s", "GFLOP/s"),
        [
            (
                row["family"],
                row["network"],
                row["batch"],
                row["way"],
                row["images_per_s"],
                round(row["flop_per_s"] / 1e9),
            )
            for row in report["forward"]
        ],
    )
    lines += ["", "## ODEED, the whole loop", ""]
    lines += _table(
        ("family", "batch", "way", "ms a tile, median", "times as fast as torch eager"),
        [(r["family"], r["batch"], r["way"], r["ms_per_tile"], r.get("times_eager", "–")) for r in report["odeed"]],
    )
    tests = report["tests"]
    lines += [
        "",
        "## Tests",
        "",
        f"```\n{tests['output'].strip()}\n```" if tests["ran"] else f"Not run: {tests['why']}.",
    ]
    return "\n".join(lines) + "\n"


def _parity(row: dict[str, Any]) -> str:
    if "error" in row:
        return str(row["error"]).replace("|", "/")
    told = ", ".join(f"{c['tensor']} {c['measure']} {c['value']:.3g}" for c in row["checks"])
    return f"{'passed' if row['passed'] else 'REFUSED'}: {told}"


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows),
    ]
