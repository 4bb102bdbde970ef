"""What a network computes in. Weights, loss, optimiser and average stay FP32 in any case."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from training.errors import RunInvalid

Precision = Literal["fp32", "bf16"]


def checked(name: str) -> Precision:
    """A precision by name.

    Raises:
        RunInvalid: there is none of that name.
    """
    if name == "fp32":
        return "fp32"
    if name == "bf16":
        return "bf16"
    raise RunInvalid(f"no precision {name!r}; there are fp32 and bf16")


def computing(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context in which a network runs; one for each use."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def require_precision(precision: Precision, device: torch.device) -> None:
    """Refuse what a device cannot compute in, before a run begins.

    Raises:
        RunInvalid: the device lacks it or would emulate it.
    """
    if precision == "bf16" and not _has_bf16(device):
        raise RunInvalid(
            f"{device} has no bf16 instructions and would emulate them, slower than fp32; give --precision fp32"
        )


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # oneDNN's own test: AVX-512 on x86, bf16 instructions on ARM.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
