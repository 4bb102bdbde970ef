"""The page of complaints names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "deploy" / "docs" / "complaints.md"


def rows() -> dict[int, tuple[str, list[str]]]:
    """Number of each complaint to the answer and the tests named beside it."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and cells[0].isdigit():
            found[int(cells[0])] = (cells[2], re.findall(r"`(tests/[^`]+)`", cells[3]))
    return found


def test_all_twenty_five_have_a_row() -> None:
    assert list(rows()) == list(range(1, 26))


def test_every_test_that_is_named_exists() -> None:
    for number, (_, tests) in rows().items():
        for test in tests:
            file, _, name = test.partition("::")
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert name.rpartition("::")[2] in names, f"complaint {number} names {test}"


def test_an_answer_and_a_test_come_together() -> None:
    assert [number for number, (answer, tests) in rows().items() if (answer == "–") == bool(tests)] == []


def test_the_watching_of_catalogs_leaves_no_complaint_unanswered() -> None:
    assert [number for number in (*range(1, 8), *range(12, 16), 25) if not rows()[number][1]] == []
