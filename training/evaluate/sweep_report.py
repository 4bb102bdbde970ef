"""The sweep of ODEED's settings as a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from training.evaluate.figures import figure_of, png_of
from training.evaluate.sweep import SweepPoint

SOLVER_MARKS = {"euler": "o", "heun": "s"}


def sweep_png(points: Sequence[SweepPoint], chosen: SweepPoint) -> bytes:
    """AUROC against evaluations, one panel a protocol; a line for each solver, σ_max and distance."""
    figure = figure_of(13.0, 5.2)
    axes = figure.subplots(1, 2, sharey=True)
    rows = ranked(points)
    ratios = sorted({row["ratio"] for row in rows})
    shades = {ratio: f"C{i}" for i, ratio in enumerate(ratios)}
    for axis, protocol in zip(axes, ("flooded_vs_dry", "after_vs_before"), strict=True):
        for solver, mark in SOLVER_MARKS.items():
            for ratio in ratios:
                for distance, style in (("mse", "-"), ("xstars", ":")):
                    line = sorted(
                        (row["nfe"], row[protocol])
                        for row in rows
                        if (row["solver"], row["ratio"], row["distance"]) == (solver, ratio, distance)
                    )
                    if line:
                        axis.plot(
                            *zip(*line, strict=True), mark + style, color=shades[ratio], markersize=4, linewidth=1
                        )
        at = next(row for row in rows if _same(row, chosen))
        axis.plot(at["nfe"], at[protocol], "*", color="black", markersize=15, zorder=5)
        axis.axhline(0.5, color="#bbbbbb", linewidth=1)
        axis.grid(color="#e5e5e5")
        axis.set_title(protocol.replace("_", "-"))
        axis.set_xlabel("evaluations of the denoiser")
    axes[0].set_ylabel("AUROC, mean of networks")
    marks = [
        axes[0].plot([], [], "o", color=shades[r], linestyle="none", label=f"σ_max {r:g} σ_data")[0] for r in ratios
    ]
    marks += [axes[0].plot([], [], m, color="#555555", linestyle="none", label=s)[0] for s, m in SOLVER_MARKS.items()]
    marks += [axes[0].plot([], [], s, color="#555555", label=d)[0] for d, s in (("MSE", "-"), ("X-STARS", ":"))]
    marks += [axes[0].plot([], [], "*", color="black", linestyle="none", label="chosen")[0]]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=9)
    return png_of(figure)


def ranked(points: Sequence[SweepPoint]) -> list[dict[str, Any]]:
    """Settings by their mean worth over the networks, best first.

    ``worth``: mean of the two protocols. ``energy_correlation``: Spearman's, with the mean of x²; at 1 the score *is*
    the energy.
    """
    by_setting: dict[tuple[Any, ...], list[SweepPoint]] = {}
    for point in points:
        by_setting.setdefault((point.solver, point.steps, point.ratio, point.distance, point.nfe), []).append(point)
    rows = [
        {
            **dict(zip(("solver", "steps", "ratio", "distance", "nfe"), key, strict=True)),
            "flooded_vs_dry": float(np.mean([point.flooded_vs_dry for point in found])),
            "after_vs_before": float(np.mean([point.after_vs_before for point in found])),
            "worth": float(np.mean([point.worth for point in found])),
            "energy_correlation": float(np.mean([point.energy_correlation for point in found])),
        }
        for key, found in by_setting.items()
    ]
    return sorted(rows, key=lambda row: -row["worth"])


def _same(row: Mapping[str, Any], point: SweepPoint) -> bool:
    return (row["solver"], row["steps"], row["ratio"], row["distance"]) == (
        point.solver,
        point.steps,
        point.ratio,
        point.distance,
    )
