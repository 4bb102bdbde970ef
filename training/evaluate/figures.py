"""Pictures of a judgement: AUROC with intervals, and a few tiles with what a scorer makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from training.evaluate.ood import Example
from training.evaluate.protocol import PROTOCOLS
from training.evaluate.table import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"control": "#7a7a7a", "unpaired": "#1f6fb4", "paired": "#c8601a"}
"""By kind of scorer."""


def auroc_png(rows: Sequence[Row], title: str) -> bytes:
    """A dot with its interval for each scorer, one panel a protocol, best on top; shipped decisions are diamonds."""
    panels = [[row for row in rows if row.protocol == protocol and row.auroc is not None] for protocol in PROTOCOLS]
    tallest = max(1, *(len(panel) for panel in panels))
    figure = figure_of(15.0, 1.6 + 0.26 * tallest)
    axes = figure.subplots(1, len(panels), sharex=True)
    for axis, protocol, panel in zip(axes, PROTOCOLS, panels, strict=True):
        ordered = sorted(panel, key=lambda row: row.auroc or 0.0)
        for y, row in enumerate(ordered):
            _dot(axis, y, row)
        axis.set_yticks(range(len(ordered)), [row.scorer for row in ordered], fontsize=9)
        for label, row in zip(axis.get_yticklabels(), ordered, strict=True):
            label.set_color(COLOURS[row.kind])
            label.set_fontweight("bold" if is_shipped(row.scorer) else "normal")
        axis.axvline(0.5, color="#bbbbbb", linewidth=1)
        axis.grid(axis="x", color="#e5e5e5")
        axis.set_axisbelow(True)
        axis.set_ylim(-0.8, tallest - 0.2)
        counts = {(row.n_pos, row.n_neg) for row in panel}
        numbers = f"\n{panel[0].n_pos:,} against {panel[0].n_neg:,}" if len(counts) == 1 else ""
        axis.set_title(f"{protocol}{numbers}", fontsize=11)
        axis.set_xlabel("AUROC, 95 % interval by event")
    lows = [value for panel in panels for row in panel for value in (row.auroc_low, row.auroc) if value is not None]
    axes[0].set_xlim(min([0.4, *lows]) - 0.02, 1.01)
    present = {row.kind for panel in panels for row in panel}
    marks = [
        axes[-1].plot([], [], "o", color=colour, label=kind, linestyle="none")[0]
        for kind, colour in COLOURS.items()
        if kind in present
    ]
    if any(is_shipped(row.scorer) for panel in panels for row in panel):
        marks += axes[-1].plot([], [], "D", color="#333333", label="what the daemon decides", linestyle="none")
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=10)
    figure.suptitle(title, fontsize=12)
    return png_of(figure)


def examples_png(examples: Sequence[Example], scorer: str | None) -> bytes:
    """Tiles before and after a flood, the mask, and a scorer's map; two tiles a line."""
    with_map = scorer is not None and any(example.error_map is not None for example in examples)
    columns = 4 if with_map else 3
    lines = max(1, -(-len(examples) // 2))
    figure = figure_of(2.0 * 2 * columns + 0.6, 2.35 * lines + 0.5)
    halves = list(np.ravel(np.asarray(figure.subfigures(1, 2, wspace=0.03), dtype=object)))
    for half, part in zip(halves, (examples[0::2], examples[1::2]), strict=True):
        axes = half.subplots(lines, columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for line, example in zip(axes, part, strict=False):
            _example(line, example, scorer)
    return png_of(figure)


def is_shipped(scorer: str) -> bool:
    """Whether a row is one of the decisions that the daemon makes."""
    return scorer in ("shipped", "shipped-paired")


def figure_of(width: float, height: float) -> Figure:
    """An empty figure, sides in inches."""
    # No pyplot and no display: a figure with a canvas of its own leaves nothing behind in the process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_of(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _dot(axis: Any, y: int, row: Row) -> None:
    colour = COLOURS[row.kind]
    if row.auroc_low is not None and row.auroc_high is not None:
        axis.plot([row.auroc_low, row.auroc_high], [y, y], color=colour, linewidth=2, alpha=0.55)
    axis.plot([row.auroc], [y], "D" if is_shipped(row.scorer) else "o", color=colour, markersize=6)


def _example(line: Any, example: Example, scorer: str | None) -> None:
    both = np.concatenate([example.before, example.after], axis=2)
    top = max(float(np.quantile(both, 0.99)), 1e-3)
    line[0].imshow(_picture(example.before, top))
    line[0].set_title(f"before · {example.image}", fontsize=8)
    line[1].imshow(_picture(example.after, top))
    line[1].set_title("after", fontsize=8)
    line[2].imshow(example.mask, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    line[2].set_title(f"mask · {100 * example.share:.0f} % flooded", fontsize=8)
    if len(line) > 3 and example.error_map is not None:
        shown = example.error_map
        # Errors spread over orders of magnitude: the square root shows more than the brightest pixel.
        image = line[3].imshow(np.sqrt(np.maximum(shown, 0)), cmap="magma", vmin=0, interpolation="nearest")
        line[3].set_title(f"√ map of {scorer}", fontsize=8)
        bar = line[3].figure.colorbar(image, ax=line[3], fraction=0.046, pad=0.02)
        bar.ax.tick_params(labelsize=6)
    for axis in line:
        axis.set_axis_on()
        axis.set_xticks([])
        axis.set_yticks([])


def _picture(tile: npt.NDArray[np.float32], top: float) -> npt.NDArray[np.float32]:
    """The first three bands as red, green and blue.  (H, W, 3)"""
    bands = tile[:3] if len(tile) >= 3 else np.repeat(tile[:1], 3, axis=0)
    return np.asarray(np.clip(bands / top, 0, 1).transpose(1, 2, 0), dtype=np.float32)
