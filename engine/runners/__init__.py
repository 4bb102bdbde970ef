"""Runners: the same calls on each device. :func:`open_runner` opens one; :func:`candidates` says which to try."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from engine.errors import RunnerUnavailable
from engine.runners.base import DeviceName, RunnableModel, Runner, RunnerName
from engine.runners.build_watch import BuildWatch

PrecisionName = Literal["auto", "fp32", "fp16", "bf16"]
RUNNERS = ("auto", "torch", "onnxruntime", "tensorrt")
PLACES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run a model, all choices made."""

    runner: Literal["torch", "onnxruntime", "tensorrt"]
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"

    def __str__(self) -> str:
        half = "" if self.precision == "fp32" else f" in {self.precision}"
        return f"{self.runner} on {self.device}{half}"


@dataclass(frozen=True, kw_only=True)
class RunnerOptions:
    """What a runner is opened with, beside the model."""

    threads: int = 0
    """Intra-op threads on a CPU; 0: the library's default."""
    cache_dir: Path | None = None
    """Where derived graphs and plans are kept; None keeps none, and TensorRT needs one."""
    batch_size: int = 32
    """Rows of the largest batch on a GPU."""
    compiled: bool = False
    """Whether torch compiles its modules."""
    watch: BuildWatch = field(default_factory=BuildWatch, compare=False, repr=False)
    """Told of long builds."""
    on_halving: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)
    """Called when a GPU's memory was full and the largest batch was halved."""


def candidates(
    runner: RunnerName = "auto", device: DeviceName = "auto", precision: PrecisionName = "auto"
) -> tuple[Candidate, ...]:
    """What to try on this machine, best first; more than one only where something is left to choose.

    ``auto`` is TensorRT on a GPU where it is installed, then torch; on the CPU ONNX Runtime where it is installed, then
    torch. ``precision: auto`` tries TensorRT in FP16, then BF16, then FP32; the other runners compute in FP32 alone.

    Raises:
        RunnerUnavailable: an unknown name, or choices that exclude one another.
    """
    if runner not in RUNNERS:
        raise RunnerUnavailable(f"no runner {runner!r}; there are {', '.join(RUNNERS)}")
    if device not in PLACES:
        raise RunnerUnavailable(f"no device {device!r}; there are {', '.join(PLACES)}")
    if runner == "tensorrt" and device == "cpu":
        raise RunnerUnavailable("runner tensorrt runs on device cuda alone; set device: auto, or runner: auto")
    if runner == "tensorrt":
        return _tensorrt(precision)
    if runner != "auto" and precision not in ("auto", "fp32"):
        raise RunnerUnavailable(f"runner {runner} computes in fp32 alone, not {precision}; set precision: auto")
    place: Literal["cpu", "cuda"]
    place = ("cpu" if runner == "onnxruntime" or not _cuda_here() else "cuda") if device == "auto" else device
    if runner != "auto":
        return (Candidate(runner=runner, device=place),)
    if place == "cpu":
        graph = (Candidate(runner="onnxruntime", device="cpu"),) if find_spec("onnxruntime") else ()
        return (*graph, Candidate(runner="torch", device="cpu"))
    plans = _tensorrt(precision) if find_spec("tensorrt") or find_spec("tensorrt_bindings") else ()
    return (*plans, Candidate(runner="torch", device="cuda"))


def _tensorrt(precision: PrecisionName) -> tuple[Candidate, ...]:
    tried: tuple[Literal["fp16", "bf16", "fp32"], ...] = (
        ("fp16", "bf16", "fp32") if precision == "auto" else (precision,)
    )
    return tuple(Candidate(runner="tensorrt", device="cuda", precision=each) for each in tried)


def open_candidate(model: RunnableModel, chosen: Candidate, options: RunnerOptions) -> Runner:
    """Open a model in one way.

    Raises:
        RunnerUnavailable: this machine lacks the runner or the device, or the model cannot be run so.
        BuildStopped: the options' watch ended a build.
    """
    if chosen.runner == "torch":
        from engine.runners.torch import open_torch

        return open_torch(
            model,
            device=chosen.device,
            threads=options.threads,
            compiled=options.compiled,
            largest=options.batch_size,
            on_halving=options.on_halving,
        )
    if chosen.runner == "tensorrt":
        return _open_tensorrt(model, chosen, options)
    try:
        from engine.runners.onnxruntime import OnnxRuntimeRunner
    except ImportError as error:
        raise RunnerUnavailable(
            f"runner onnxruntime cannot be imported ({error}); pip install onnxruntime onnxscript, or set runner: torch"
        ) from error
    return OnnxRuntimeRunner(model, device=chosen.device, threads=options.threads, cache_dir=options.cache_dir)


def open_runner(
    model: RunnableModel,
    *,
    runner: RunnerName = "auto",
    device: DeviceName = "auto",
    threads: int = 0,
    cache_dir: Path | None = None,
) -> Runner:
    """Open a model by the first of :func:`candidates`, in single precision.

    Raises:
        RunnerUnavailable: this machine lacks the runner or the device that was asked for.
    """
    chosen = candidates(runner, device, "fp32")[0]
    return open_candidate(model, chosen, RunnerOptions(threads=threads, cache_dir=cache_dir))


def _open_tensorrt(model: RunnableModel, chosen: Candidate, options: RunnerOptions) -> Runner:
    from engine.runners.cuda import CudaQueue, free_memory, probe
    from engine.runners.plans import open_plan
    from engine.runners.tensorrt import TensorRt, library

    if options.cache_dir is None:
        raise RunnerUnavailable("runner tensorrt keeps its plans, and no cache folder was given; set cache_dir")
    return open_plan(
        model,
        TensorRt(library()),
        precision=chosen.precision,
        largest=options.batch_size,
        cache_dir=options.cache_dir,
        make_queue=CudaQueue,
        probe=probe,
        watch=options.watch,
        release=free_memory,
        on_halving=options.on_halving,
    )


def _cuda_here() -> bool:
    import torch

    return torch.cuda.is_available()
