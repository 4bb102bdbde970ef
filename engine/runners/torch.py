"""The reference runner: torch, eager, float32, on the CPU or a CUDA device."""

from __future__ import annotations

import numpy as np
import torch

from engine.errors import RunnerUnavailable
from engine.runners.base import Arrays, RunnableModel, Runner


class TorchRunner(Runner):
    """Runs a module eagerly in inference mode.

    Threads may share it: an eval-mode module holds no state between calls.
    """

    def __init__(self, model: RunnableModel, *, device: str = "cpu", threads: int = 0) -> None:
        """Build the module and move it to the device.

        Args:
            model: what to run.
            device: ``cpu`` or ``cuda``.
            threads: intra-op threads, 0 for torch's default. Torch has one such number per process, not per
                runner: the last one opened wins. On ``cuda``, TF32 convolutions are switched off, per process too.

        Raises:
            RunnerUnavailable: ``cuda`` was asked for and torch sees no CUDA device.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise RunnerUnavailable(
                f"{model.name}: device cuda was asked for, but torch {torch.__version__} sees no CUDA device; "
                "set device: auto or cpu, or install a CUDA build of torch and the driver"
            )
        super().__init__(f"torch/{device}", model.spec)
        if threads > 0:
            torch.set_num_threads(threads)
        if device == "cuda":
            # On by default for convolutions, and it moves a Heun round trip by more than the score itself.
            torch.backends.cudnn.allow_tf32 = False
        self._device = torch.device(device)
        self._module: torch.nn.Module | None = model.build().eval().to(self._device)

    def _compute(self, feeds: Arrays) -> Arrays:
        assert self._module is not None
        with torch.inference_mode():
            tensors = [torch.from_numpy(array).to(self._device) for array in feeds.values()]
            result = self._module(*tensors)
        outputs = result if isinstance(result, tuple) else (result,)
        return {
            spec.name: np.array(value.float().cpu().numpy(), dtype=spec.dtype)
            for spec, value in zip(self.spec.outputs, outputs, strict=True)
        }

    def _release(self) -> None:
        self._module = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
