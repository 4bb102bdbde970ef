"""CUDA as torch gives it: streams, graphs, and what the device is."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from engine.errors import RunnerUnavailable

RECORDING = threading.Lock()
"""Held while a graph is recorded; the CUDA context that it guards is the process's too."""


def require_cuda(what: str) -> None:
    """Raise :class:`~engine.errors.RunnerUnavailable` where torch sees no CUDA device."""
    if not torch.cuda.is_available():
        raise RunnerUnavailable(
            f"{what}: device cuda was asked for, but torch {torch.__version__} sees no CUDA device; "
            "set device: auto or cpu, or install a CUDA build of torch and the driver"
        )


def probe() -> None:
    """Wait for the device; raises if its context is broken."""
    torch.cuda.synchronize()


def free_memory() -> None:
    """Give memory that torch keeps for later back to the device, where others, TensorRT included, can have it."""
    torch.cuda.empty_cache()


class CudaQueue:
    """A CUDA stream of its own on the current device (:class:`engine.runners.device.Queue`)."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self._stream: Any = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.handle: int = self._stream.cuda_stream

    def current(self) -> Any:
        """The stream as torch's current one."""
        return torch.cuda.stream(self._stream)

    def host(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Page-locked memory."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """A CUDA graph. The first run is not recorded: libraries allocate and choose kernels in it."""
        work()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Thread-local: other lanes go on allocating and copying while this one records. Two recordings at once would
        # meet in torch's memory pools and in the waiting for the device with which each begins.
        with RECORDING, torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return graph.replay

    def wait(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()


def driver_version() -> str:
    """Version of the NVIDIA driver, from NVML or the kernel; ``unknown`` where neither tells it."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(96)
        if nvml.nvmlInit_v2() == 0:
            try:
                if nvml.nvmlSystemGetDriverVersion(text, 96) == 0:
                    return text.value.decode()
            finally:
                nvml.nvmlShutdown()
    except (OSError, AttributeError):
        pass
    try:
        words = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").split()
    except OSError:
        return "unknown"
    return next((word for word in words if word[:1].isdigit() and "." in word), "unknown")
