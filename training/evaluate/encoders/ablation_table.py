"""The ablation's tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.evaluate.encoders.ablation import KNN, LINEAR, Hits, Measure, compared
from training.evaluate.encoders.ablation_plan import PlannedRun
from training.evaluate.encoders.report import Dot, Panel
from training.evaluate.encoders.resampling import mean_interval
from training.evaluate.encoders.subjects import Subject
from training.evaluate.record import rounded


def run_rows(
    runs: Sequence[PlannedRun],
    subjects: Mapping[str, Subject],
    hits: Mapping[str, Hits],
    measures: Mapping[str, Measure],
) -> list[dict[str, Any]]:
    """A row for each run and control, chance last."""
    planned = {run.name: run for run in runs}
    rows: list[dict[str, Any]] = []
    for name, subject in subjects.items():
        run = planned.get(name)
        facts = subject.facts or {}
        rows.append(
            {
                "run": name,
                "kind": run.kind if run else subject.kind,
                "msad": run.msad if run else None,
                "seed": run.seed if run else None,
                "steps": facts.get("steps"),
                "seconds": facts.get("seconds"),
                **{
                    measure: rounded(float(hits[name][measure].mean())) if measure in hits[name] else None
                    for measure in measures
                },
            }
        )
    empty = dict.fromkeys(rows[0])
    chance = {name: rounded(measure.chance) for name, measure in measures.items()}
    return [*rows, {**empty, "run": "chance", "kind": "control", **chance}]


def kept_rows(
    measures: Mapping[str, Measure], hits: Mapping[str, Hits], continual: Sequence[str], start: str, seed: int
) -> list[dict[str, Any]]:
    """Each continual run against what it started from: the first sensor's kNN, an aim, comes first."""
    chosen = [KNN, LINEAR, *(name for name in measures if name not in (KNN, LINEAR))]
    return [
        {"run": run, **compared(measures[name], [hits[run][name]], [hits[start][name]], seed)}
        for name in chosen
        for run in continual
        if name in hits[run] and name in hits[start]
    ]


def dots_of(subjects: Mapping[str, Subject], hits: Mapping[str, Hits], measures: Mapping[str, Measure]) -> list[Panel]:
    """A panel for each measure."""
    panels: list[Panel] = []
    for name, measure in measures.items():
        dots: list[Dot] = []
        for label, subject in subjects.items():
            if name in hits[label]:
                between = mean_interval(hits[label][name], measure.weights, 2)
                value = float(hits[label][name].mean())
                dots.append(Dot(label=label, kind=subject.kind, value=value, low=between.low, high=between.high))
        panels.append(Panel(title=name, axis="share of queries; dashed: chance", dots=dots, chance=measure.chance))
    return panels
