"""``vigie evaluate ablation``."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.markup import escape

from training.cli.common import DryRun, errors_told, print_json
from training.cli.encoder_judging import WEBP_COPY, Judged, class_facts, open_judged
from training.cli.judging import Draws, command_line, machine_facts, now
from training.data.classfolder import ClassFolder
from training.data.ombria import OmbriaFolder
from training.evaluate.encoders.ablation import LINEAR, Bench, Hits, aims, compared, sentence
from training.evaluate.encoders.ablation_plan import MODES, START, Ablation, PlannedRun
from training.evaluate.encoders.ablation_table import dots_of, kept_rows, run_rows
from training.evaluate.encoders.children import Children, Job
from training.evaluate.encoders.class_table import ClassTiles
from training.evaluate.encoders.preprocessing import of_whole_images, of_windows
from training.evaluate.encoders.report import dots_png
from training.evaluate.encoders.retrieval import coarse_to_fine, radar_to_optical
from training.evaluate.encoders.subjects import CHECKPOINT, Subject, heads_of_run
from training.evaluate.record import Record, RecordTable

TRAIN = "from training.cli.train import train; train(prog_name='vigie train')"
"""A training in a process of its own, wherever the console script lies."""
FACTOR = 4
"""How many times coarser the simulated sensor is that is judged."""


def ablation(
    ombria: Annotated[Path, typer.Option(help="Folder in the OMBRIA layout.")],
    classes: Annotated[Path, typer.Option(help="Aerial images in one sub-folder per class.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs; finished ones are kept, started ones go on.")],
    json: Annotated[Path | None, typer.Option(help="JSON file; else OUT/ablation.json.")] = None,
    preset: Annotated[str, typer.Option(help="Encoder preset of all runs.")] = Ablation.preset,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the runs from scratch.")] = 3,
    continual_seeds: Annotated[int, typer.Option(min=0, help="Seeds of the continual runs; 0: none.")] = 1,
    adapt_to: Annotated[str, typer.Option(help="Sensor that continual runs adapt the aerial encoder to.")] = (
        Ablation.adapt_to
    ),
    hold_out: Annotated[str | None, typer.Option(help="Event blocks to hold out, such as B,C,K.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each run; else the preset's.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Instead: minutes of each run.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each run, and of judging.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 2,
    draws: Draws = 1000,
    seed: Annotated[int, typer.Option(help="Of random weights, simulated light and draws.")] = 0,
    dry_run: DryRun = False,
) -> None:
    """Train the encoder with each of MSAD's modes, judge all alike, and say whether MSAD helps.

    A run that is finished is kept and a started one goes on, so the command can be stopped and given again.
    """
    console = Console(stderr=True)
    if steps is not None and minutes is not None:
        raise typer.BadParameter("give either --steps or --minutes")
    plan = Ablation(
        out=out, ombria=ombria, classes=classes, preset=preset, seeds=seeds, continual_seeds=continual_seeds,
        steps=steps, minutes=minutes, threads=threads, adapt_to=adapt_to,
        hold_out=tuple(hold_out.split(",")) if hold_out else (),
    )  # fmt: skip
    target = json or out / "ablation.json"
    options = {
        "ombria": ombria, "classes": classes, "out": out, "json": json, "preset": preset, "seeds": seeds,
        "continual_seeds": continual_seeds, "adapt_to": adapt_to, "hold_out": hold_out, "steps": steps,
        "minutes": minutes, "threads": threads, "jobs": jobs, "draws": draws, "seed": seed,
    }  # fmt: skip
    with errors_told():
        runs = plan.runs()
        if dry_run:
            print_json(
                {"runs": [{"run": run.name, "state": plan.state(run), "command": _shown(plan, run)} for run in runs]}
            )
            return
        _train(plan, runs, jobs, console)
        torch.set_num_threads(threads)
        for path in _judge(plan, runs, target, command_line("ablation", options), draws, seed, console):
            console.print(str(path))


def _shown(plan: Ablation, run: PlannedRun) -> str:
    return " ".join(["vigie", *plan.arguments(run)])


def _train(plan: Ablation, runs: tuple[PlannedRun, ...], jobs: int, console: Console) -> None:
    left = [run for run in runs if plan.state(run) != "finished"]
    console.print(f"{len(runs) - len(left)} of {len(runs)} runs are finished")
    missing = {run.name for run in left}
    children = Children(jobs=jobs, pause=time.sleep, say=lambda text: console.print(escape(text)))
    # With as many processes as cores, each BLAS that starts threads of its own slows all of them.
    children.environment = {**os.environ, "OMP_NUM_THREADS": str(plan.threads)}
    with _stopped_by_signals(children):
        children.run(
            [
                Job(
                    name=run.name,
                    command=[sys.executable, "-c", TRAIN, *plan.arguments(run)[1:]],
                    log=plan.out / f"{run.name}.log",
                    after=run.after if run.after in missing else None,
                )
                for run in left
            ]
        )


@contextmanager
def _stopped_by_signals(children: Children) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        children.stop()

    earlier = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _judge(
    plan: Ablation, runs: tuple[PlannedRun, ...], target: Path, command: str, draws: int, seed: int, console: Console
) -> list[Path]:
    folder, aerial = OmbriaFolder.open(plan.ombria), ClassFolder.open(plan.classes)
    judged = open_judged(
        None,
        [plan.out / run.name for run in runs],
        family="sentinel-2",
        tile_px=None,
        starts={plan.out / run.name: plan.out / run.after for run in runs if run.after is not None},
    )
    images = judged.held_out(folder, None)
    how = of_whole_images(judged.tile_px)
    bench = Bench(
        radar=radar_to_optical(images, judged.tile_px),
        coarse=coarse_to_fine(aerial.halves()[1], judged.tile_px, FACTOR, seed),
        classes=ClassTiles.open(aerial, how),
        draws=draws,
        seed=seed,
    )
    hits: dict[str, Hits] = {}
    subjects: dict[str, Subject] = {}
    for subject in [*judged.with_controls(bench.classes.train, seed), *_heads(plan, runs, judged)]:
        console.print(f"judging {subject.name}")
        hits[subject.name], subjects[subject.name] = bench.judge(subject), subject
    measures = bench.measures()
    scratch = {
        mode: [run.name for run in runs if run.kind == "scratch" and run.msad == mode] for mode in (*MODES, "compat")
    }
    against = {
        mode: {
            name: compared(
                measure, [hits[run][name] for run in scratch[mode]], [hits[run][name] for run in scratch["off"]], seed
            )
            for name, measure in measures.items()
        }
        for mode in ("position", "dense")
    }
    linear = {
        mode: compared(
            measures[LINEAR],
            [hits[run][LINEAR] for run in scratch[mode]],
            [hits["raw pixels"][LINEAR]] * len(scratch[mode]),
            seed,
        )
        for mode in MODES
    }
    kept = kept_rows(measures, hits, [run.name for run in runs if run.kind == "continual"], START, seed)
    radar = 0 if bench.radar is None else len(bench.radar)
    record = Record(
        title="Does a correct MSAD help? The ablation",
        command=command,
        data={
            "ombria": folder.digest(),
            "events": ", ".join(sorted({image.event for image in images})),
            "radar_tiles": radar,
            "radar_images": 0 if bench.radar is None else len(np.unique(bench.radar.images)),
            **class_facts(aerial),
        },
        models=judged.models,
        machine=machine_facts(plan.threads),
        date=now(),
        settings={
            "preprocessing": {
                "retrieval": of_windows(judged.tile_px, ["sentinel-2", "sentinel-1", "aerial"]).to_dict(),
                "classes": how.to_dict(),
            },
            "preset": plan.preset, "seeds": plan.seeds, "steps": plan.steps, "minutes": plan.minutes,
            "factor": FACTOR, "draws": draws, "seed": seed,
        },
        notes=[
            *(sentence(mode, row) for mode, rows in against.items() for row in rows.values()),
            "Intervals: 95 % of bootstrap draws of queries and seeds together, paired by seed and query. Sentinel "
            "tiles of one image are drawn together, aerial images within their class.",
            f"Coarse → fine and the classes are of the {WEBP_COPY}; coarse → fine is simulated ({FACTOR} times). "
            "Alignment of real Sentinel-2 and aerial images is not verified: no data here can show it.",
            *([] if radar else ["No held-out image has a Sentinel-1 view: nothing is said of it."]),
            "With --minutes, cheaper modes do more steps in the same time; with --steps all do as many.",
            f"Continual runs start from `{START}`, trained on aerial images alone, and adapt it to {plan.adapt_to}. "
            "Where each sensor has its own patch embedding, aerial tiles go through the start's, then the new trunk.",
            *judged.notes,
        ],
        tables=[
            RecordTable(
                name="aims", title="Aims", text="Set before anything was trained.", rows=aims(against, kept, linear)
            ),
            *(
                RecordTable(
                    name=f"{mode}_against_off",
                    title=f"MSAD {mode} against DINO alone",
                    text="Means over seeds; ratio: value over against.",
                    rows=list(rows.values()),
                )
                for mode, rows in against.items()
            ),
            RecordTable(
                name="kept",
                title="What continual training keeps and gains",
                text=f"Each run against `{START}`; one seed, so queries alone are drawn.",
                rows=kept,
            ),
            RecordTable(
                name="linear_against_pixels",
                title="Linear probe against raw pixels",
                text="Class token against 8 x 8 px.",
                rows=[{"mode": mode, **row} for mode, row in linear.items()],
            ),
            RecordTable(
                name="runs",
                title="Every run and control",
                text="Means over queries. Heads: through the projection heads, in which alignment is trained.",
                rows=run_rows(runs, subjects, hits, measures),
            ),
        ],
    )  # fmt: skip
    return record.write(target, {"measures": dots_png(dots_of(subjects, hits, measures), record.title, columns=3)})


def _heads(plan: Ablation, runs: tuple[PlannedRun, ...], judged: Judged) -> Iterator[Subject]:
    by_name: Mapping[str, Subject] = {subject.name: subject for subject in judged.encoders}
    for run in runs:
        folder = plan.out / run.name
        if run.kind == "scratch" and run.msad in ("position", "dense") and (folder / CHECKPOINT).is_file():
            yield heads_of_run(folder, by_name[run.name])
