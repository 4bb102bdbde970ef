"""What the commands that judge share: options, the bundle, what pixels mean, and the facts beside every result."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from engine.bundle import ModelBundle, bundled
from engine.manifest import FamilySpec
from training.data.reflectance import PixelMeaning
from training.errors import TrainingDataInvalid
from training.presets import DENOISERS
from training.running.runfolder import machine

JsonFile = Annotated[Path, typer.Option(help="JSON file to write; Markdown and figures go beside it.")]
BundleName = Annotated[str, typer.Option(help="A shipped bundle's name, or a bundle's folder with a / in it.")]
Events = Annotated[list[str] | None, typer.Option(help="Judge on this event alone; give several.")]
Bands = Annotated[str | None, typer.Option(help="Which bands of the files, from 1, such as 12,8,4.")]
Gain = Annotated[float | None, typer.Option(min=1e-9, help="Reflectance per 8-bit number, instead of the preset's.")]
Draws = Annotated[int, typer.Option(min=10, help="Bootstrap draws.")]


class Bars:
    """One progress bar a stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def show(self, stage: str, done: int, total: int) -> None:
        """See :data:`training.evaluate.scenes.Progress`."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done)


def open_bundle(name: str) -> ModelBundle:
    """A shipped bundle by name, or a folder with a / in its path.

    Raises:
        BundleError: there is none, or it was altered.
    """
    return ModelBundle.load(Path(name) if "/" in name else bundled(name))


def pixel_meaning(spec: FamilySpec, bands: str | None, gain: float | None) -> PixelMeaning:
    """What numbers are taken for: the gain given, else that of the family's training images.

    Raises:
        TrainingDataInvalid: no preset says it, or the bands are no list of as many numbers as the family has bands.
    """
    preset = DENOISERS.get(spec.name)
    if gain is None and (preset is None or len(preset.gains) != len(spec.bands)):
        raise TrainingDataInvalid(f"no preset says what an 8-bit number of {spec.name!r} is; give --gain")
    gains = preset.gains if gain is None and preset is not None else (gain or 0.0,) * len(spec.bands)
    try:
        wanted = tuple(int(band) for band in bands.split(",")) if bands else None
    except ValueError as error:
        raise TrainingDataInvalid(f"--bands {bands} is no list of numbers; give one such as 12,8,4") from error
    if wanted is not None and len(wanted) != len(spec.bands):
        raise TrainingDataInvalid(f"--bands {bands}: {spec.name!r} needs {len(spec.bands)} bands, {spec.bands}")
    return PixelMeaning(gains=gains, bands=wanted)


def command_line(command: str, options: Mapping[str, Any], *, group: str = "evaluate") -> str:
    """A command as it would be typed; options that are None or false are left out, and true ones are flags."""
    words: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        for each in value if isinstance(value, list | tuple) else [value]:
            if each is not None and each is not False:
                words += [flag] if each is True else [flag, str(each)]
    return f"vigie {group} {command} {shlex.join(words)}".rstrip()


def machine_facts(threads: int) -> dict[str, Any]:
    """What a judgement ran on."""
    return {**machine(threads), "cores": os.cpu_count()}


def now() -> str:
    """ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
