"""Pictures of how encoders do: a dot with its interval for each subject, beside chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from training.evaluate.figures import figure_of, png_of

COLOURS = {"encoder": "#1f6fb4", "heads": "#5aa9d6", "supervised": "#2f8f4e", "control": "#7a7a7a"}
"""By kind of subject."""


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One figure of one subject."""

    label: str
    kind: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Figures that may be compared."""

    title: str
    axis: str
    """What is shown, with its unit."""
    dots: Sequence[Dot]
    chance: float | None = None


def dots_png(panels: Sequence[Panel], title: str, *, columns: int = 2) -> bytes:
    """Panels side by side, best on top."""
    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    tallest = max(len(panel.dots) for panel in panels)
    figure = figure_of(7.5 * columns, 0.6 + lines * (1.2 + 0.26 * tallest))
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, panel in zip(axes.flat, panels, strict=False):
        ordered = sorted(panel.dots, key=lambda dot: dot.value)
        for y, dot in enumerate(ordered):
            colour = COLOURS[dot.kind]
            if dot.low is not None and dot.high is not None:
                axis.plot([dot.low, dot.high], [y, y], color=colour, linewidth=2, alpha=0.55)
            axis.plot([dot.value], [y], "o", color=colour, markersize=6)
        axis.set_yticks(range(len(ordered)), [dot.label for dot in ordered], fontsize=8)
        for label, dot in zip(axis.get_yticklabels(), ordered, strict=True):
            label.set_color(COLOURS[dot.kind])
        if panel.chance is not None:
            axis.axvline(panel.chance, color="#bb4444", linewidth=1, linestyle="--")
        axis.grid(axis="x", color="#e5e5e5")
        axis.set_axisbelow(True)
        axis.set_ylim(-0.8, len(ordered) - 0.2)
        axis.set_xlim(left=min([0.0, *(dot.value for dot in ordered)]))
        axis.set_title(panel.title, fontsize=10)
        axis.set_xlabel(panel.axis, fontsize=9)
    figure.suptitle(title, fontsize=12)
    return png_of(figure)
