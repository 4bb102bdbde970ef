from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.errors import TrainingDataInvalid
from training.ship.card_tables import judged_section, read_report, write_section


def row(scorer: str, protocol: str, auroc: float | None) -> dict[str, Any]:
    return {
        "scorer": scorer,
        "kind": "unpaired",
        "protocol": protocol,
        "auroc": auroc,
        "auroc_low": None if auroc is None else auroc - 0.1,
        "auroc_high": None if auroc is None else auroc + 0.05,
        "auroc_within": auroc,
        "nfe": 10,
    }


def report(**settings: Any) -> dict[str, Any]:
    protocols = ("flooded-vs-dry", "after-vs-before", "pixel")
    return {
        "data": {"images": 3, "events": 2, "digest": "ab" * 32, "flooded": 5, "dry": 7, "common": 8},
        "settings": settings,
        "bundle": {"model": "0123"},
        "command": "vigie evaluate ood --data D --json F",
        "date": "2026-11-24T00:00:00+00:00",
        "machine": {"cores": 2, "machine": "x86_64"},
        "common": [
            *(row("odeed", protocol, 0.6) for protocol in protocols),
            *(row("shipped", protocol, None if protocol == "pixel" else 0.9) for protocol in protocols),
        ],
        "differences": [
            {
                "scorer": "shipped",
                "control": "water-index",
                "against": "one look",
                "protocol": "flooded-vs-dry",
                "auroc": 0.9,
                "control_auroc": 0.85,
                "difference": 0.05,
                "low": -0.01,
                "high": 0.1,
                "excludes_zero": False,
            }
        ],
    }


def test_the_section_ranks_scorers_and_says_what_is_uncertain() -> None:
    text = judged_section([report()])
    lines = text.splitlines()
    assert lines.index(
        "| **shipped** | unpaired | 0.900 [0.800, 0.950] | 0.900 | 0.900 [0.800, 0.950] | – | 10 |"
    ) < next(i for i, line in enumerate(lines) if line.startswith("| odeed |"))
    assert "difference +0.050 [-0.010, +0.100], which includes zero" in text
    assert "the bundle `0123` as it is" in text


def test_folds_are_named() -> None:
    assert "never saw it (fold1: B, C)" in judged_section([report(folds={"fold1": ["B", "C"]})])


def test_a_section_replaces_the_one_before_and_leaves_the_rest(tmp_path: Path) -> None:
    card = tmp_path / "MODEL_CARD.md"
    card.write_text("# Card\n\ntext\n\n## Limits\n\n- many\n")
    write_section(card, "## Judged\n\nfirst")
    write_section(card, "## Judged\n\nsecond")
    text = card.read_text()
    assert "second" in text
    assert "first" not in text
    assert text.startswith("# Card\n\ntext\n")
    assert text.endswith("## Limits\n\n- many\n")
    assert text.index("second") < text.index("## Limits")
    assert [path.name for path in tmp_path.iterdir()] == ["MODEL_CARD.md"]


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("[1]")
    with pytest.raises(TrainingDataInvalid, match="no JSON object"):
        read_report(other)
    with pytest.raises(TrainingDataInvalid, match="'data'"):
        judged_section([{}])
    with pytest.raises(TrainingDataInvalid, match="vigie export"):
        write_section(tmp_path / "none.md", "")
