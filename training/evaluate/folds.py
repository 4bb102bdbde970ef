"""Judging by event blocks: each event by a network that was trained without it, and a flood model fitted without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from training.data.triples import TripleFolder
from training.denoise.run_preset import preset_of
from training.errors import RunInvalid
from training.evaluate.detectors import Detector
from training.evaluate.fitted import Networks, flood_arrays, flood_examples, normal_of
from training.evaluate.memo import MemoRunner, Savings
from training.evaluate.ood import Outcome
from training.evaluate.protocol import Ground, Scores
from training.flood.fit import FloodExamples, FloodFit
from training.running.runfolder import RunFolder
from training.running.serving import open_denoiser, settings_of


class Folds:
    """Finished denoiser runs whose held-out events do not overlap; a context manager that closes what it opened.

    The encoder, and LPIPS where it was given, are the bundle's.
    """

    def __init__(
        self, runs: Sequence[RunFolder], bundled: Detector, data: Path, savings: Savings, *, threads: int, seed: int
    ) -> None:
        self._bundled = bundled
        self._data = data
        self._savings = savings
        self._threads = threads
        self._seed = seed
        self._by_event: dict[str, RunFolder] = {}
        for run in runs:
            for event in preset_of(run).held_out_events:
                if event in self._by_event:
                    raise RunInvalid(f"event {event} is held out by {self._by_event[event].path} and by {run.path}")
                self._by_event[event] = run
        self._stack = ExitStack()
        self._detectors: dict[Path, Detector] = {}
        self._examples: FloodExamples | None = None

    def check(self, events: Sequence[str]) -> None:
        """Raise :class:`~training.errors.RunInvalid` unless every event is held out by one of the runs."""
        lacking = sorted({block_of(event) for event in events} - set(self._by_event))
        if lacking:
            raise RunInvalid(f"no run holds out {lacking}; train one with --hold-out {','.join(lacking)}")

    def detector(self, event: str) -> Detector:
        """The detector that never saw an event."""
        block = block_of(event)
        run = self._by_event[block]
        preset = preset_of(run)
        if run.path not in self._detectors:
            self._detectors[run.path] = self._open(run)
        how = FloodFit()
        if self._examples is None:
            self._examples = flood_examples(preset, self._data, how, np.random.default_rng((self._seed, 0xF1D)))
        fitted = flood_arrays(self._examples, [block], how)
        detector = self._detectors[run.path]
        return replace(detector, arrays={**detector.arrays, **fitted})

    def _open(self, run: RunFolder) -> Detector:
        preset = preset_of(run)
        opened = self._stack.enter_context(open_denoiser(run, threads=self._threads))
        denoiser = MemoRunner(opened, self._savings)
        settings = settings_of(run.config, steps=preset.odeed_steps, ratio=preset.odeed_ratio)
        nets = Networks(denoiser=denoiser, encoder=self._bundled.encoder, odeed=settings)
        rng = np.random.default_rng((self._seed, 0x90A))
        return Detector(
            bands=preset.bands,
            sigma_data=float(run.config["sigma_data"]),
            settings=settings,
            denoiser=denoiser,
            encoder=self._bundled.encoder,
            arrays=normal_of(preset, self._data, nets, 500, rng),
            lpips=self._bundled.lpips,
        )

    def __enter__(self) -> Folds:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def block_of(event: str) -> str:
    """An event as runs name it: the last part of its name in the index, as :mod:`training.data.ombria` has it."""
    return event.rsplit("_", 1)[-1]


def judge_by_event(folder: TripleFolder, judge: Callable[[TripleFolder, str, int], Outcome], tiles: int) -> Outcome:
    """Judge event by event and join: ``judge(folder of the event, event, its share of the tiles)``."""
    images = {event: len(folder.of_events([event]).images) for event in folder.events}
    # By the square root, so that a large event does not take all.
    roots = {event: np.sqrt(count) for event, count in images.items()}
    total = sum(roots.values())
    parts = [
        judge(folder.of_events([event]), event, max(8, round(float(tiles * roots[event] / total))))
        for event in folder.events
    ]
    return join(parts)


def join(parts: Sequence[Outcome]) -> Outcome:
    """Outcomes of different events, by the same subjects, as one."""
    events = tuple(event for part in parts for event in part.ground.events)
    images = tuple(image for part in parts for image in part.ground.images)
    event_starts = np.cumsum([0, *(len(part.ground.events) for part in parts)])
    image_starts = np.cumsum([0, *(len(part.ground.images) for part in parts)])
    ground = Ground(
        events=events,
        images=images,
        event=np.concatenate([part.ground.event + start for part, start in zip(parts, event_starts, strict=False)]),
        image=np.concatenate([part.ground.image + start for part, start in zip(parts, image_starts, strict=False)]),
        share=np.concatenate([part.ground.share for part in parts]),
        pixel_flooded=np.concatenate([part.ground.pixel_flooded for part in parts]),
        pixel_known=np.concatenate([part.ground.pixel_known for part in parts]),
    )
    return Outcome(
        ground=ground,
        scores={name: _joined([part.scores[name] for part in parts]) for name in parts[0].scores},
        common=np.concatenate([part.common for part in parts]),
        examples=tuple(example for part in parts for example in part.examples[:2]),
    )


def _joined(parts: Sequence[Scores]) -> Scores:
    scored = np.asarray([int((~np.isnan(part.now)).sum()) for part in parts])
    timed = [part.ms_per_tile for part in parts if part.ms_per_tile is not None]
    pixels = [part.pixels for part in parts if part.pixels is not None]
    return Scores(
        now=np.concatenate([part.now for part in parts]),
        earlier=np.concatenate([part.earlier for part in parts]),
        pixels=np.concatenate(pixels) if len(pixels) == len(parts) else None,
        ms_per_tile=float(np.average(timed, weights=scored)) if len(timed) == len(parts) and scored.any() else None,
    )
