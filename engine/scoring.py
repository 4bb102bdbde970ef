"""The engine as the daemon calls it: tiles of a sensor family to what is kept of them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from engine.bundle import ModelBundle
from engine.embed import Embedder
from engine.golden import check_golden
from engine.look import Look
from engine.odeed import Odeed, ScoreBatch
from engine.runners import open_runner
from engine.runners.base import DeviceName, RunnerName
from engine.spectrum import spectrum_of
from engine.tiles import Float32Array, TileBatch
from engine.water import water_share


@dataclass(frozen=True, kw_only=True)
class RunnerChoice:
    """What the networks run on."""

    runner: RunnerName = "auto"
    device: DeviceName = "auto"
    threads: int = 0
    """Intra-op threads on a CPU; 0: the library's default."""
    cache_dir: Path | None = None
    """Where derived graphs are kept; None keeps none."""


@dataclass(frozen=True, kw_only=True)
class _Opened:
    embedder: Embedder
    odeed: Odeed


class SceneScorer:
    """Scores and embeds tiles with the networks of one bundle.

    A family's networks are opened, and held against the bundle's golden batch, when they are first needed. Calls may
    come from several threads. A context manager; closing it closes every runner.
    """

    def __init__(
        self, bundle: ModelBundle, choice: RunnerChoice, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.bundle = bundle
        self._choice = choice
        self._monotonic = monotonic
        self._stack = ExitStack()
        self._opened: dict[str, _Opened] = {}
        self._lock = threading.Lock()

    def bands(self, family: str) -> tuple[str, ...]:
        """Bands that a family's networks take, in their order.

        Raises:
            BundleError: the bundle has no such family.
        """
        return self.bundle.family(family).bands

    def calibration(self, family: str) -> Mapping[str, Float32Array]:
        """Calibration arrays of a family."""
        return self.bundle.family(family).calibration

    def open(self, family: str) -> None:
        """Open a family's networks now, so that the first scene does not wait.

        Raises:
            BundleError: there is no such family, or its networks do not reproduce the golden batch here.
            RunnerUnavailable: the runner asked for cannot run on this machine.
        """
        self._family(family)

    def look(self, batch: TileBatch, family: str, seconds: Counter[str] | None = None) -> Look:
        """Score and embed a batch.

        Args:
            batch: tiles with at least the family's bands; further ones serve the water index.
            family: sensor family.
            seconds: gains what was spent on ``embed`` and ``score``.

        Raises:
            InputMismatch: the batch is not what the networks declare.
        """
        look, _ = self.look_and_maps(batch, family, seconds)
        return look

    def look_and_maps(
        self, batch: TileBatch, family: str, seconds: Counter[str] | None = None
    ) -> tuple[Look, ScoreBatch]:
        """As :meth:`look`, and the ODEED error maps, rows in the order of the *batch*."""
        opened = self._family(family)
        spent = Counter[str]() if seconds is None else seconds
        # Reflectance 0..1 to the networks' [-1, 1].  (N, C, H, W)
        x = 2.0 * batch.select(self.bands(family)) - 1.0
        began = self._monotonic()
        embedding = opened.embedder.embed(x)
        embedded = self._monotonic()
        scores = opened.odeed.score(x, batch.valid)
        spent["embed"] += embedded - began  # type: ignore[assignment]
        spent["score"] += self._monotonic() - embedded  # type: ignore[assignment]
        look = Look.join(
            [
                Look(
                    cell_ids=tuple(tile.cell_id for tile in batch.tiles),
                    odeed=scores.score,
                    water=water_share(batch),
                    cls=embedding.cls,
                    valid_ratio=batch.valid.mean(axis=(1, 2), dtype="float32"),
                    spectrum=spectrum_of(batch, self.bands(family)),
                )
            ]
        )
        return look, scores

    def _family(self, family: str) -> _Opened:
        with self._lock:
            if family not in self._opened:
                self._opened[family] = self._open(family)
            return self._opened[family]

    def _open(self, family: str) -> _Opened:
        spec = self.bundle.family(family)
        with ExitStack() as stack:
            encoder, denoiser = (
                stack.enter_context(
                    open_runner(
                        model,
                        runner=self._choice.runner,
                        device=self._choice.device,
                        threads=self._choice.threads,
                        cache_dir=self._choice.cache_dir,
                    )
                )
                for model in (self.bundle.encoder_model(family), self.bundle.denoiser_model(family))
            )
            check_golden(self.bundle.golden(family), spec.odeed, encoder, denoiser)
            self._stack.push(stack.pop_all())
        return _Opened(embedder=Embedder(encoder), odeed=Odeed(denoiser, spec.odeed))

    def close(self) -> None:
        """Close every runner."""
        self._stack.close()
        self._opened.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
