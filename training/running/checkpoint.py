"""Everything a killed run needs to go on exactly: tensors as safetensors, counters as JSON, never a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from training.errors import RunInvalid

FILE = "checkpoint.safetensors"


def save_checkpoint(
    folder: Path,
    tensors: Mapping[str, Tensor],
    counters: Mapping[str, int],
    configuration: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint so that a kill at any instant leaves the old one or the new one, whole.

    Tensors, counters and configuration are one file: they cannot come from two different steps.
    """
    path = folder / FILE
    partial = path.with_suffix(".partial")
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    metadata = {"counters": json.dumps(dict(counters), sort_keys=True)}
    if configuration is not None:
        metadata["configuration"] = json.dumps(configuration, sort_keys=True, default=list)
    save_file(own, partial, metadata=metadata)
    os.replace(partial, path)  # noqa: PTH105 - atomic on one file system, which rename of an open handle is not


def load_checkpoint(
    folder: Path, configuration: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], dict[str, int]] | None:
    """Read what :func:`save_checkpoint` wrote; None where there is none.

    Raises:
        RunInvalid: the file is no checkpoint, or of a run with another configuration.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata()
            counters = json.loads(metadata["counters"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except Exception as error:
        raise RunInvalid(f"{path} is no checkpoint ({error}); remove it to train from the start") from error
    if configuration is not None and "configuration" in metadata:
        kept = json.loads(metadata["configuration"])
        asked = json.loads(json.dumps(configuration, default=list))
        different = _differences(kept, asked)
        if different:
            raise RunInvalid(
                f"{folder} holds a run that differs in {', '.join(different)}; give the same settings, or another --out"
            )
    return tensors, counters


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], above: str = "") -> list[str]:
    """Dotted names of what differs."""
    found: list[str] = []
    for key in sorted({*one, *other}):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{above}{key}.")
        elif a != b:
            found.append(f"{above}{key} ({a} there, {b} here)")
    return found


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
