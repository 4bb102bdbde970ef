"""Runners: the same calls on each device. :func:`open_runner` chooses one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from engine.errors import RunnerUnavailable
from engine.runners.base import DeviceName, RunnableModel, Runner, RunnerName


def open_runner(
    model: RunnableModel,
    *,
    runner: RunnerName = "auto",
    device: DeviceName = "auto",
    threads: int = 0,
    cache_dir: Path | None = None,
) -> Runner:
    """Open a model on this machine.

    Args:
        model: from :meth:`engine.bundle.ModelBundle.encoder_model` or ``denoiser_model``.
        runner: ``auto`` is torch on a GPU, and on the CPU onnxruntime where it is installed, else torch.
        device: ``auto`` is cuda where torch sees one (and the runner is not onnxruntime), else cpu.
        threads: intra-op threads, 0 for the library's default.
        cache_dir: folder for derived graphs; ``None`` keeps none.

    Raises:
        RunnerUnavailable: this machine lacks the runner or the device that was asked for.
    """
    if runner not in ("auto", "torch", "onnxruntime"):
        raise RunnerUnavailable(f"no runner {runner!r}; there are auto, torch, onnxruntime")
    if device not in ("auto", "cpu", "cuda"):
        raise RunnerUnavailable(f"no device {device!r}; there are auto, cpu, cuda")
    place = ("cpu" if runner == "onnxruntime" or not _cuda_here() else "cuda") if device == "auto" else device
    if runner == "auto":
        runner = "onnxruntime" if place == "cpu" and find_spec("onnxruntime") else "torch"
    if runner == "torch":
        from engine.runners.torch import TorchRunner

        return TorchRunner(model, device=place, threads=threads)
    try:
        from engine.runners.onnxruntime import OnnxRuntimeRunner
    except ImportError as error:
        raise RunnerUnavailable(
            f"runner onnxruntime cannot be imported ({error}); pip install onnxruntime onnxscript, or set runner: torch"
        ) from error
    return OnnxRuntimeRunner(model, device=place, threads=threads, cache_dir=cache_dir)


def _cuda_here() -> bool:
    import torch

    return torch.cuda.is_available()
