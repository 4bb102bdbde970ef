"""What the commands that judge encoders share: which subjects, on tiles of which side, and what is told of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from training.cli.judging import open_bundle
from training.data.classfolder import ClassFolder
from training.data.ombria import OmbriaFolder, OmbriaImage
from training.errors import TrainingDataInvalid
from training.evaluate.encoders.preprocessing import Float32Array
from training.evaluate.encoders.subjects import (
    Subject,
    heads_of_run,
    of_bundle,
    of_run,
    pixel_controls,
    random_weights,
    vit_facts,
)

Bundles = Annotated[
    list[str] | None,
    typer.Option("--bundle", help="A bundle's name or folder; give several. Without --run: base."),
]
Runs = Annotated[list[Path] | None, typer.Option("--run", help="Run of `vigie train xstars`; give several.")]
TilePx = Annotated[
    int | None, typer.Option("--tile", min=16, help="Side of a tile, pixels; else the largest that an encoder has.")
]
Ombria = Annotated[Path | None, typer.Option(help="Folder in the OMBRIA layout.")]
Classes = Annotated[Path | None, typer.Option(help="Aerial images in one sub-folder per class.")]
HeldOut = Annotated[
    list[str] | None, typer.Option("--event", help="Judge on this event block; give several. Else those held out.")
]

WEBP_COPY = "192 px WebP copy"
"""What the aerial classes here are, and what every result on them is marked with."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Encoders that are judged, without their controls."""

    encoders: tuple[Subject, ...]
    heads: tuple[Subject, ...]
    tile_px: int
    notes: tuple[str, ...]

    @property
    def models(self) -> dict[str, str]:
        """What each encoder is, in words."""
        return {
            subject.name: "; ".join(f"{key} {value}" for key, value in (subject.facts or {}).items())
            for subject in self.encoders
        }

    def with_controls(self, tiles: Float32Array, seed: int) -> list[Subject]:
        """All subjects: encoders, their heads, the same networks before training, and pixels."""
        configs = {vit_facts(each.vit.config): each.vit.config for each in self.encoders if each.vit is not None}
        several = len(configs) > 1
        fresh = [
            random_weights(config, seed, tiles, f"random weights ({size})" if several else "random weights")
            for size, config in configs.items()
        ]
        return [*self.encoders, *self.heads, *fresh, *pixel_controls()]

    def held_out(self, folder: OmbriaFolder, asked: Sequence[str] | None) -> tuple[OmbriaImage, ...]:
        """The images of event blocks that no encoder was trained on.

        Raises:
            TrainingDataInvalid: an encoder was trained on a block that is asked for, or there is no block left.
        """
        free = set(folder.events)
        for subject in self.encoders:
            if subject.held_out_events is not None:
                missing = set(asked or ()) - set(subject.held_out_events)
                if missing:
                    raise TrainingDataInvalid(
                        f"{subject.name} was trained on event blocks {', '.join(sorted(missing))}; it held out "
                        f"{', '.join(subject.held_out_events)}: judge it on these"
                    )
                free &= set(subject.held_out_events)
        chosen = sorted(asked or free)
        if not chosen:
            raise TrainingDataInvalid(
                f"no event block of {folder.root} was held out by all of "
                f"{', '.join(subject.name for subject in self.encoders)}; judge them one by one"
            )
        return folder.of_events(chosen)


def open_judged(
    bundles: Sequence[str] | None,
    runs: Sequence[Path] | None,
    *,
    family: str,
    tile_px: int | None,
    heads: bool = False,
    starts: Mapping[Path, Path] | None = None,
) -> Judged:
    """Open the encoders that a command names.

    Args:
        bundles: names or folders; without runs either, the bundle that is shipped.
        runs: run folders.
        family: whose encoder is taken from a bundle.
        tile_px: side of a tile that is asked for.
        heads: whether the runs' projection heads are judged too.
        starts: the run that a run continued, where a sensor's patch embedding may have to come from.

    Raises:
        BundleError: there is no such bundle or family.
        RunInvalid: a run is not finished, of another kind, or has no heads.
        TrainingDataInvalid: the side is no multiple of an encoder's patches.
    """
    paths = list(runs or ())
    twice = {name for name, count in Counter(path.resolve().name for path in paths).items() if count > 1}
    opened = [of_bundle(open_bundle(name), family) for name in (bundles or ([] if paths else ["base"]))]
    of_runs = []
    for path in paths:
        whole = path.resolve()
        plain = f"{whole.parent.name}/{whole.name}" if whole.name in twice else whole.name
        of_runs.append(of_run(path, plain, (starts or {}).get(path)))
    encoders = [*opened, *of_runs]
    sides = sorted({each.vit.config.img_size for each in encoders if each.vit is not None})
    side = tile_px or sides[-1]
    for each in encoders:
        if each.vit is not None and side % each.vit.config.patch_size:
            raise TrainingDataInvalid(
                f"--tile {side} is no multiple of the patches of {each.name}, {each.vit.config.patch_size} px"
            )
    others = [f"{each.name} ({each.vit.config.img_size} px)" for each in encoders if each.vit and _other(each, side)]
    return Judged(
        encoders=tuple(encoders),
        heads=tuple(heads_of_run(path, each) for path, each in zip(paths, of_runs, strict=True)) if heads else (),
        tile_px=side,
        notes=(f"Tiles have {side} px; positions are interpolated for {', '.join(others)}.",) if others else (),
    )


def class_facts(folder: ClassFolder) -> dict[str, Any]:
    """What is told of a class folder."""
    train, test = folder.halves()
    return {
        "classes": f"{WEBP_COPY}, digest {folder.digest()}",
        "labels": len(folder.labels),
        "train": len(train),
        "test": len(test),
    }


def _other(subject: Subject, side: int) -> bool:
    return subject.vit is not None and subject.vit.config.img_size != side
