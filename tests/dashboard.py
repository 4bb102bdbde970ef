"""The Grafana dashboard's queries, as Grafana would send them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).resolve().parents[1] / "deploy" / "grafana" / "vigie.json"


def dashboard() -> dict[str, Any]:
    """The dashboard as it stands in the repository."""
    tree: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return tree


def queries() -> dict[str, list[str]]:
    """Panel title to its PromQL, variables put in; the annotations' under their own name."""
    tree = dashboard()
    found = {
        panel["title"]: [_filled(target["expr"]) for target in panel["targets"]]
        for panel in tree["panels"]
        if panel["type"] != "row"
    }
    return found | {each["name"]: [_filled(each["expr"])] for each in tree["annotations"]["list"]}


def _filled(expression: str) -> str:
    filled = expression.replace("$__rate_interval", "1m").replace("$instance", ".*")
    assert not re.search(r"\$\w", filled), f"a variable is left in {filled}"
    return filled
