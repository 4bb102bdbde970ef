"""``vigie evaluate spacenet8``."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from engine.runners.base import RunnerName
from engine.scorers.baselines import DiffusionLoss
from training.cli.common import Threads, errors_told
from training.cli.judging import Bars, Draws, JsonFile, command_line, machine_facts, now
from training.data.spacenet8 import SpaceNet8Folder
from training.denoise.run_preset import preset_of
from training.errors import RunInvalid
from training.evaluate.ood import Subject
from training.evaluate.record import Record
from training.evaluate.spacenet8 import (
    experiments_table,
    judge_places,
    normal_colours,
    some_of,
    split_places,
)
from training.evaluate.subjects import controls_of, networks_of, unpaired
from training.running.runfolder import RunFolder
from training.running.serving import open_denoiser, settings_of

LEVELS = (0.25, 0.5, 1.0, 2.0)
"""Noise levels of the diffusion loss over σ_data."""


def spacenet8(
    data: Annotated[Path, typer.Option(help="Folder that holds unpacked areas of SpaceNet 8.")],
    run: Annotated[Path, typer.Option(help="Denoiser run on the before-images of one area or several.")],
    json: JsonFile,
    trained_on: Annotated[
        list[str] | None, typer.Option(help="Area that the run was trained on; give several. All, if none is given.")
    ] = None,
    places: Annotated[int, typer.Option(min=1, help="Held-out places, and places elsewhere, each at most.")] = 200,
    normal: Annotated[int, typer.Option(min=4, help="Training tiles whose colours the control knows.")] = 200,
    steps: Annotated[int | None, typer.Option(min=1, help="ODEED's steps of a leg, instead of the preset's.")] = None,
    ratio: Annotated[float | None, typer.Option(min=0.01, help="σ_max / σ_data, instead of the preset's.")] = None,
    draws: Draws = 1000,
    seed: Annotated[int, typer.Option(help="Of the choice of places, and of the draws.")] = 0,
    threads: Threads = 2,
    runner: Annotated[RunnerName, typer.Option(help="What the network runs on.")] = "auto",
) -> None:
    """The ODEED paper's experiments: another land, after against before, flooded against dry."""
    console = Console(stderr=True)
    command = command_line("spacenet8", {name: value for name, value in locals().items() if name != "console"})
    with errors_told(), ExitStack() as stack:
        finished = RunFolder.open(run, "denoiser")
        preset = preset_of(finished)
        if preset.layout != "spacenet8":
            raise RunInvalid(f"{run} was trained on the layout {preset.layout!r}; train one with --layout spacenet8")
        folder = SpaceNet8Folder.open(data)
        areas = tuple(trained_on) if trained_on else folder.aois
        split = split_places(folder, areas, preset.held_out_share)
        rng = np.random.default_rng((seed, 0x5B9))
        chosen = replace(split, kept=some_of(split.kept, places, rng), elsewhere=some_of(split.elsewhere, places, rng))
        denoiser = stack.enter_context(open_denoiser(finished, runner=runner, threads=threads))
        settings = settings_of(finished.config, steps=steps or preset.odeed_steps, ratio=ratio or preset.odeed_ratio)
        sigma = float(finished.config["sigma_data"])
        loss = DiffusionLoss(denoiser=denoiser, sigma_data=sigma, sigmas=tuple(sigma * level for level in LEVELS))
        colours = normal_colours(split.shown, preset.tile_px, preset.gains, normal)
        known = {"normal_colour": colours} if len(colours) > len(preset.gains) else {}
        subjects = [
            *controls_of(preset.bands, known),
            Subject(name=loss.name, kind="unpaired", unpaired=unpaired(loss), nfe=loss.nfe),
            *networks_of(denoiser, settings, sigma),
        ]
        progress = stack.enter_context(Progress(console=console, transient=True))
        judged = judge_places(chosen, subjects, preset.tile_px, preset.gains, time.monotonic, Bars(progress).show)
        notes = [
            f"The run was taken to have seen the before-images of {', '.join(areas)}, but for "
            f"{preset.held_out_share:.0%} of the places, chosen by a hash of their names.",
            "The paper's LPIPS distance is not among the scorers: its weights are not part of this project.",
        ]
        if not split.elsewhere:
            notes.append("No area is new to the run, so there is no geographic shift; name its areas by --trained-on.")
        record = Record(
            title="SpaceNet 8",
            command=command,
            data={
                "digest": folder.digest(),
                "areas": list(folder.aois),
                "held_out_places": len(chosen.kept),
                "places_elsewhere": len(chosen.elsewhere),
                "tiles": len(judged.place),
            },
            models={"run": finished.path.name, "steps": finished.config["steps"], "data": finished.config["data"]},
            machine=machine_facts(threads),
            date=now(),
            settings={
                "seed": seed,
                "draws": draws,
                "trained_on": list(areas),
                "tile_px": preset.tile_px,
                "held_out_share": preset.held_out_share,
                "odeed": settings.to_dict(),
            },
            notes=notes,
            tables=[experiments_table(judged, subjects, draws=draws, seed=seed)],
        )
        written = record.write(json)
    for path in written:
        console.print(str(path))
