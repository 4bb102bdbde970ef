"""Everything a killed run needs to go on exactly: tensors as safetensors, counters as JSON, never a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from training.errors import RunInvalid

FILE = "checkpoint.safetensors"


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], counters: Mapping[str, int]) -> None:
    """Write a checkpoint so that a kill at any instant leaves the old one or the new one, whole.

    Tensors and counters are one file: they cannot come from two different steps.
    """
    path = folder / FILE
    partial = path.with_suffix(".partial")
    own = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(own, partial, metadata={"counters": json.dumps(dict(counters), sort_keys=True)})
    os.replace(partial, path)  # noqa: PTH105 - atomic on one file system, which rename of an open handle is not


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, int]] | None:
    """Read what :func:`save_checkpoint` wrote; None where there is none.

    Raises:
        RunInvalid: the file is no checkpoint.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as opened:
            counters = json.loads(opened.metadata()["counters"])
            return {name: opened.get_tensor(name) for name in opened.keys()}, counters  # noqa: SIM118
    except Exception as error:
        raise RunInvalid(f"{path} is no checkpoint ({error}); remove it to train from the start") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str = "optimizer") -> dict[str, Tensor]:
    """AdamW's state as named tensors: ``prefix.PARAMETER_INDEX.KEY``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{index}.{key}": torch.as_tensor(value)
        for index, kept in state.items()
        for key, value in kept.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str = "optimizer") -> None:
    """Inverse of :func:`optimizer_tensors`; the groups' settings stay as the caller built them."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix + "."):
            index, key = name.removeprefix(prefix + ".").split(".")
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
