"""The ways to run a family's networks that a machine has, opened, judged by the parity gate, and timed in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from engine.bundle import ModelBundle
from engine.errors import VigieError
from engine.odeed import Odeed
from engine.runners import Candidate, RunnerOptions, open_candidate
from engine.runners.base import RunnableModel, Runner
from engine.runners.device_runner import DeviceRunner
from engine.runners.onnx_graph import example_inputs
from engine.runners.parity import measure


@dataclass(frozen=True, kw_only=True)
class Way:
    """One column of the comparison."""

    name: str
    chosen: Candidate
    compiled: bool = False
    graphs: bool | None = None
    """Whether work is replayed as CUDA graphs; None: as the runner does by itself."""


def ways(device: str) -> tuple[Way, ...]:
    """What to compare on ``cuda``, or on ``cpu`` to try the check itself."""
    eager = Way(name="torch eager", chosen=Candidate(runner="torch", device=device))  # type: ignore[arg-type]
    onnx = Way(name="onnxruntime", chosen=Candidate(runner="onnxruntime", device=device))  # type: ignore[arg-type]
    if device == "cpu":
        return (eager, onnx)
    plans = [
        Way(
            name=f"tensorrt {precision}{'' if graphs else ', no graphs'}",
            chosen=Candidate(runner="tensorrt", device="cuda", precision=precision),  # type: ignore[arg-type]
            graphs=graphs,
        )
        for precision, graphs in (("fp32", True), ("fp16", True), ("bf16", True), ("fp16", False))
    ]
    compiled = replace(eager, name="torch.compile", compiled=True)
    return (eager, replace(eager, name="torch eager, graphs", graphs=True), compiled, onnx, *plans)


@dataclass
class Opened:
    """A way that could be opened."""

    way: Way
    encoder: Runner
    denoiser: Runner
    row: dict[str, Any]
    """What the report says of opening it: seconds, checks, whether it passed."""


def open_ways(
    bundle: ModelBundle, family: str, device: str, *, batch: int, cache: Path, stack: ExitStack
) -> tuple[list[Opened], list[dict[str, Any]]]:
    """Open every way for a family; what cannot be opened is a row with its reason."""
    opened, rows = [], []
    spec = bundle.family(family)
    for way in ways(device):
        row: dict[str, Any] = {"family": family, "way": way.name}
        rows.append(row)
        options = RunnerOptions(threads=1, cache_dir=cache, batch_size=batch, compiled=way.compiled)
        began = time.monotonic()
        try:
            encoder, denoiser = (
                stack.enter_context(open_candidate(model, way.chosen, options))
                for model in (bundle.encoder_model(family), bundle.denoiser_model(family))
            )
            if way.graphs is not None:
                for each in (encoder, denoiser):
                    assert isinstance(each, DeviceRunner)
                    each.graphs = way.graphs
            row["seconds_to_open"] = round(time.monotonic() - began, 2)
            report = measure(bundle.golden(family), spec.odeed, spec.calibration, encoder, denoiser)
        except VigieError as error:
            row["error"] = f"{type(error).__name__}: {error}"
            continue
        row["checks"] = [asdict(check) for check in report.checks]
        row["passed"] = not report.failed
        opened.append(Opened(way=way, encoder=encoder, denoiser=denoiser, row=row))
    return opened, rows


def forward_rates(
    bundle: ModelBundle, family: str, opened: list[Opened], batches: list[int], rounds: int, clock: Callable[[], float]
) -> list[dict[str, Any]]:
    """Images a second of encoder and denoiser, host to host, the ways in turns."""
    rows = []
    for what, model in (("encoder", bundle.encoder_model(family)), ("denoiser", bundle.denoiser_model(family))):
        flops = flops_per_image(model)
        for batch in batches:
            feeds = _feeds(model, batch)
            calls = {each.way.name: _run(getattr(each, what), feeds) for each in opened}
            for name, seconds in in_turns(calls, rounds, clock).items():
                rate = batch / statistics.median(seconds)
                rows.append(
                    {"family": family, "network": what, "batch": batch, "way": name, "images_per_s": round(rate, 1)}
                    | {"flop_per_s": round(rate * flops), "seconds": seconds}
                )
    return rows


def odeed_rates(
    bundle: ModelBundle, family: str, opened: list[Opened], batch: int, rounds: int, clock: Callable[[], float]
) -> list[dict[str, Any]]:
    """Seconds a tile of ODEED by the family's own settings, the ways in turns, and the ratio to eager torch."""
    spec = bundle.family(family)
    side = spec.tile_px
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (batch, spec.denoiser.config.in_chans, side, side)).astype(np.float32)
    valid = np.ones((batch, side, side), np.bool_)
    calls = {each.way.name: _score(Odeed(each.denoiser, spec.odeed), x, valid) for each in opened}
    timed = in_turns(calls, rounds, clock)
    base = timed.get("torch eager")
    rows = []
    for name, seconds in timed.items():
        row: dict[str, Any] = {"family": family, "batch": batch, "way": name, "seconds": seconds}
        row["ms_per_tile"] = round(1000 * statistics.median(seconds) / batch, 4)
        if base is not None:
            row["times_eager"] = round(statistics.median(b / s for b, s in zip(base, seconds, strict=True)), 2)
        rows.append(row)
    return rows


def in_turns(calls: dict[str, Callable[[], None]], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each call in each round; the first, unmeasured one lets compilers and recorders do their work."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = clock()
            call()
            seconds[name].append(clock() - began)
    return seconds


def flops_per_image(model: RunnableModel) -> int:
    """Floating point operations of one image: two for each multiplication and addition of products."""
    module = model.build()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(*example_inputs(model.spec, batch=1, seed=0))
    return int(counter.get_total_flops())


def matmul_rate(device: str, dtype: torch.dtype, side: int, clock: Callable[[], float]) -> float:
    """FLOP/s of this machine's own matrix product, the ceiling that the networks' rates are read against."""
    a = torch.rand(side, side, device=device).to(dtype)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    best = float("inf")
    for _ in range(5):
        wait()
        began = clock()
        for _ in range(4):
            a @ a
        wait()
        best = min(best, (clock() - began) / 4)
    return 2 * side**3 / best


def _feeds(model: RunnableModel, batch: int) -> dict[str, np.ndarray]:
    tensors = example_inputs(model.spec, batch=batch, seed=0)
    return {spec.name: tensor.numpy() for spec, tensor in zip(model.spec.inputs, tensors, strict=True)}


def _run(runner: Runner, feeds: dict[str, np.ndarray]) -> Callable[[], None]:
    def call() -> None:
        runner.run(feeds)

    return call


def _score(odeed: Odeed, x: np.ndarray, valid: np.ndarray) -> Callable[[], None]:
    def call() -> None:
        odeed.score(x, valid)

    return call
