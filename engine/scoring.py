"""The engine as the daemon calls it: tiles of a sensor family to what is kept of them."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from engine.bundle import ModelBundle
from engine.embed import Embedder
from engine.errors import RunnerUnavailable
from engine.look import Look
from engine.odeed import Odeed, ScoreBatch
from engine.runners import Candidate, PrecisionName, RunnerOptions, candidates, open_candidate
from engine.runners.base import DeviceName, Runner, RunnerName
from engine.runners.build_watch import BuildWatch
from engine.runners.parity import require_parity
from engine.spectrum import spectrum_of
from engine.tiles import Float32Array, TileBatch
from engine.water import water_share

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunnerChoice:
    """What the networks run on."""

    runner: RunnerName = "auto"
    device: DeviceName = "auto"
    precision: PrecisionName = "auto"
    """Of TensorRT's plans; ``auto`` is the fastest that passes the parity gate."""
    threads: int = 0
    """Intra-op threads on a CPU; 0: the library's default."""
    batch_size: int = 32
    """Rows of the largest batch on a GPU."""
    compiled: bool = False
    """Whether the torch runner compiles its modules."""
    cache_dir: Path | None = None
    """Where derived graphs and plans are kept; None keeps none."""


Fallback = Literal["unavailable", "parity"]
"""Why a runner was passed over: it cannot run here, or it drifts from the golden batch."""


@dataclass(frozen=True, kw_only=True)
class ScorerEvents:
    """Called as things happen, from the thread that they happen in; for metrics."""

    on_open: Callable[[str, Candidate], None] = lambda family, chosen: None
    """A family is served so."""
    on_fallback: Callable[[str, Candidate, Fallback], None] = lambda family, passed_over, why: None
    """A better way was passed over for a family."""
    on_halving: Callable[[], None] = lambda: None
    """A GPU's memory was full; batches are half as large from now on."""


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
        self,
        bundle: ModelBundle,
        choice: RunnerChoice,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        watch: BuildWatch | None = None,
        events: ScorerEvents | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            bundle: the networks.
            choice: what to run them on.
            monotonic: clock for the seconds of each stage.
            watch: told of long builds, and asked whether to go on.
            events: told of what runs and what does not.
        """
        self.bundle = bundle
        self._choice = choice
        self._monotonic = monotonic
        self._watch = watch or BuildWatch()
        self._events = events or ScorerEvents()
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
        """Open a family by the best way that works here and passes the parity gate."""
        choice = self._choice
        ways = candidates(choice.runner, choice.device, choice.precision)
        for number, chosen in enumerate(ways, 1):
            why: Fallback = "unavailable"
            with ExitStack() as stack:
                try:
                    encoder, denoiser = self._pair(family, chosen, stack)
                    why = "parity"
                    spec = self.bundle.family(family)
                    require_parity(self.bundle.golden(family), spec.odeed, spec.calibration, encoder, denoiser)
                except RunnerUnavailable as error:
                    if number == len(ways):
                        raise
                    log.warning("%s is not served by %s, the next way is tried: %s", family, chosen, error)
                    self._events.on_fallback(family, chosen, why)
                    continue
                self._stack.push(stack.pop_all())
            log.info("%s is served by %s", family, chosen)
            self._events.on_open(family, chosen)
            return _Opened(embedder=Embedder(encoder), odeed=Odeed(denoiser, spec.odeed))
        raise AssertionError("there is always a way to try, and the last one returns or raises")

    def _pair(self, family: str, chosen: Candidate, stack: ExitStack) -> tuple[Runner, Runner]:
        """Encoder and denoiser, opened in one way; the stack closes them."""
        choice = self._choice
        options = RunnerOptions(
            threads=choice.threads,
            cache_dir=choice.cache_dir,
            batch_size=choice.batch_size,
            compiled=choice.compiled,
            watch=self._watch,
            on_halving=self._events.on_halving,
        )
        encoder = stack.enter_context(open_candidate(self.bundle.encoder_model(family), chosen, options))
        return encoder, stack.enter_context(open_candidate(self.bundle.denoiser_model(family), chosen, options))

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
