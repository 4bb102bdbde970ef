"""What a device raises, told apart: memory that is full, a context that is broken, a call that was refused."""

from __future__ import annotations

from collections.abc import Callable

import torch

from engine.errors import DeviceLost, RunnerFailed

MEMORY_SIGNS = ("out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED", "FAILED_ALLOCATION")


class MemoryFull(Exception):
    """The device has no memory for this batch; a smaller one may fit."""


class PlanError(Exception):
    """A library of the device said no; the text is its own."""


def told_apart(error: Exception, probe: Callable[[], None]) -> Exception:
    """What to raise for something that the device raised.

    Args:
        error: from torch or from a plan.
        probe: waits for the device. A sound one answers; in a broken context every call fails from then on, which is
            how CUDA tells a sticky error from others, whatever its name.
    """
    memory = isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in MEMORY_SIGNS)
    try:
        probe()
    except Exception as sticky:
        return DeviceLost(
            f"the device failed ({_line(error)}), and answers nothing any more ({_line(sticky)}): this process ends; "
            "if it happens again, see the kernel log for Xid errors and test the GPU"
        )
    if memory:
        return MemoryFull(_line(error))
    return RunnerFailed(f"the device refused a call and is sound otherwise ({_line(error)}); report it with the log")


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no text'}"
