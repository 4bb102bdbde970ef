"""The folder that a run leaves: ``config.json``, ``weights.safetensors`` and its checkpoint."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.errors import RunInvalid

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A finished run: what it was and what it learned."""

    path: Path
    config: Mapping[str, Any]
    """``kind`` (``denoiser`` or ``xstars``), ``preset``, ``seed``, ``steps``, ``data`` digests, what was measured."""

    @classmethod
    def open(cls, path: Path, kind: str) -> RunFolder:
        """Open a finished run.

        Raises:
            RunInvalid: it is not finished, or is of another kind.
        """
        config_file = path / CONFIG
        if not config_file.is_file() or not (path / WEIGHTS).is_file():
            raise RunInvalid(f"{path} has no {CONFIG} and {WEIGHTS}; finish its training first")
        config = json.loads(config_file.read_text(encoding="utf-8"))
        if config.get("kind") != kind:
            raise RunInvalid(f"{path} is a run of kind {config.get('kind')!r}; {kind!r} is expected here")
        return cls(path=path, config=config)

    def weights(self) -> dict[str, Tensor]:
        """The trained weights, as the run saved them."""
        return load_file(self.path / WEIGHTS)


def write_run(path: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write a finished run; nothing in it depends on where or from which checkout it was made."""
    path.mkdir(parents=True, exist_ok=True)
    save_file(dict(weights), path / WEIGHTS)
    text = json.dumps(dict(config), indent=2, sort_keys=True, default=list)
    (path / CONFIG).write_text(text + "\n", encoding="utf-8")


def machine(threads: int) -> dict[str, Any]:
    """What a run's time was measured on."""
    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": threads,
    }
