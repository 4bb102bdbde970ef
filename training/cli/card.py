"""``vigie card``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.cli.common import errors_told
from training.cli.judging import BundleName, open_bundle
from training.ship.card_tables import judged_section, read_report, write_section


def card(
    judged: Annotated[list[Path], typer.Option(help="JSON file that `vigie evaluate ood` wrote; give several.")],
    bundle: BundleName = "base",
) -> None:
    """Put what judging found into a bundle's model card; the bundle's identity stays."""
    with errors_told():
        path = open_bundle(bundle).path / "MODEL_CARD.md"
        write_section(path, judged_section([read_report(report) for report in judged]))
    Console(stderr=True).print(str(path))
