"""What the commands that judge on a class folder share: the record of their accuracies."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from training.cli.encoder_judging import WEBP_COPY, Judged, class_facts
from training.cli.judging import machine_facts, now
from training.data.classfolder import ClassFolder
from training.evaluate.encoders.class_table import ClassTiles
from training.evaluate.encoders.finetune import SUPERVISED, FineTuning, fresh, supervised, tune
from training.evaluate.encoders.preprocessing import Preprocessing
from training.evaluate.encoders.report import Dot, Panel, dots_png
from training.evaluate.encoders.subjects import Subject
from training.evaluate.record import Record, RecordTable
from training.evaluate.scenes import Progress

Supervised = Annotated[
    float, typer.Option("--supervised-minutes", min=0.0, help="For the supervised network of the same size; 0: none.")
]


def supervised_subjects(
    judged: Judged, tiles: ClassTiles, minutes: float, seed: int, progress: Progress
) -> tuple[list[Subject], list[str]]:
    """The network of the first encoder's size that learned the train half's labels from scratch, and what to say of it.

    Without minutes there is none.
    """
    vit = judged.encoders[0].vit
    if not minutes or vit is None:
        return [], []
    how = FineTuning(minutes=minutes, epochs=60)
    start = fresh(vit.config, seed, tiles.train)
    tuned = tune(
        start,
        tiles.train,
        tiles.train_codes,
        len(tiles.labels),
        how,
        seed=seed,
        clock=time.monotonic,
        progress=progress,
        name=SUPERVISED,
    )
    note = f"The supervised network learned the train half's labels from scratch for {tuned.epochs:.1f} epochs."
    return [supervised(tuned)], [note]


def write_classes(
    path: Path,
    *,
    title: str,
    text: str,
    command: str,
    folder: ClassFolder,
    judged: Judged,
    how: Preprocessing,
    rows: Sequence[dict[str, Any]],
    classes: Sequence[dict[str, Any]],
    settings: Mapping[str, Any],
    notes: Sequence[str],
    threads: int,
) -> list[Path]:
    """JSON, Markdown and a figure of accuracies; see :class:`Record`."""
    record = Record(
        title=f"{title} ({WEBP_COPY})",
        command=command,
        data=class_facts(folder),
        models=judged.models,
        machine=machine_facts(threads),
        date=now(),
        settings={"preprocessing": how.to_dict(), **settings},
        notes=[
            *judged.notes,
            *notes,
            "Every second image of each class trains, the others judge; no encoder has seen these.",
            "Intervals: 95 % of bootstrap draws of test images within their class.",
            f"All results are of the {WEBP_COPY}: published figures are of 256 px TIFF images and other splits.",
            f"Preprocessing: {how.to_dict()}.",
        ],
        tables=[
            RecordTable(name="rows", title="Accuracy", text=text, rows=rows),
            RecordTable(
                name="classes",
                title="By class",
                text="Accuracy of each subject's first embedding.",
                rows=classes,
            ),
        ],
    )
    panel = Panel(
        title=f"{len(folder.labels)} classes, {rows[0]['n']} test images",
        axis="accuracy, 95 % interval; dashed: chance",
        dots=[
            Dot(
                label=f"{row['subject']} · {row['embedding']}",
                kind=row["kind"],
                value=row["accuracy"],
                low=row["low"],
                high=row["high"],
            )
            for row in rows
            if row["subject"] != "chance"
        ],
        chance=1 / len(folder.labels),
    )
    return record.write(path, {"accuracy": dots_png([panel], record.title)})
