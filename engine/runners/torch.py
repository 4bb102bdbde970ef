"""The reference runner: torch, eager, float32, on the CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engine.errors import InputMismatch, RunnerUnavailable
from engine.ode import Schedule, SolverName, encode_decode
from engine.runners.base import Arrays, RoundTrips, RunnableModel, Runner
from engine.runners.cuda import CudaQueue, free_memory, probe, require_cuda
from engine.runners.device_runner import DeviceRunner
from engine.runners.onnx_graph import example_inputs
from engine.runners.torch_plan import TorchPlan


class TorchRunner(Runner, RoundTrips):
    """Runs a module eagerly on the CPU, in inference mode.

    Threads may share it: an eval-mode module holds no state between calls.
    """

    def __init__(self, model: RunnableModel, *, threads: int = 0, compiled: bool = False) -> None:
        """Build the module.

        Args:
            model: what to run.
            threads: intra-op threads, 0 for torch's default. Torch has one such number per process, not per
                runner: the last one opened wins.
            compiled: compile it with torch.compile, which takes a minute at the first batch of each size.
        """
        super().__init__("torch/cpu", model.spec)
        if threads > 0:
            torch.set_num_threads(threads)
        self._module: torch.nn.Module | None = _module(model, "cpu", compiled=compiled)

    def round_trip(
        self, feeds: Mapping[str, npt.NDArray[Any]], schedule: Schedule, solver: SolverName
    ) -> npt.NDArray[Any]:
        """As :class:`~engine.runners.base.RoundTrips` says."""
        if not self._open:
            raise InputMismatch(f"runner {self.name} is closed; open another")
        module = self._module
        assert module is not None
        batch = self.spec.check({**feeds, "sigma": np.ones(len(feeds.get("x", ())), dtype=np.float32)})
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in feeds.items()}

        def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
            given = {**tensors, "x": x, "sigma": torch.full((batch,), sigma)}
            denoised: torch.Tensor = module(*(given[each.name] for each in self.spec.inputs))
            return denoised

        with torch.inference_mode():
            reconstruction: npt.NDArray[Any] = encode_decode(
                denoise, tensors["x"], schedule, solver
            ).reconstruction.numpy()
        return reconstruction

    def _compute(self, feeds: Arrays) -> Arrays:
        assert self._module is not None
        with torch.inference_mode():
            result = self._module(*(torch.from_numpy(array) for array in feeds.values()))
        outputs = result if isinstance(result, tuple) else (result,)
        return {
            spec.name: np.array(value.float().numpy(), dtype=spec.dtype)
            for spec, value in zip(self.spec.outputs, outputs, strict=True)
        }

    def _release(self) -> None:
        self._module = None


def open_torch(
    model: RunnableModel,
    *,
    device: str = "cpu",
    threads: int = 0,
    compiled: bool = False,
    largest: int = 32,
    graphs: bool = False,
    on_halving: Callable[[], None] = lambda: None,
) -> Runner:
    """Open torch on a device; single precision throughout.

    Args:
        model: what to run.
        device: ``cpu`` or ``cuda``.
        threads: on the CPU, see :class:`TorchRunner`.
        compiled: use torch.compile.
        largest: on CUDA, rows of the largest batch.
        graphs: on CUDA, replay each batch size's work as one CUDA graph.
        on_halving: on CUDA, called when memory was full and the largest batch was halved.

    Raises:
        RunnerUnavailable: ``cuda`` was asked for and torch sees no CUDA device.
    """
    if device == "cpu":
        return TorchRunner(model, threads=threads, compiled=compiled)
    require_cuda(model.name)
    # On by default for convolutions, and it moves a Heun round trip by more than the score itself.
    torch.backends.cudnn.allow_tf32 = False
    return DeviceRunner(
        "torch/cuda",
        model.spec,
        TorchPlan(_module(model, "cuda", compiled=compiled), model.spec),
        make_queue=CudaQueue,
        probe=probe,
        largest=largest,
        graphs=graphs,
        release=free_memory,
        on_halving=on_halving,
    )


def _module(model: RunnableModel, device: str, *, compiled: bool) -> torch.nn.Module:
    module = model.build().eval().to(device)
    if not compiled:
        return module
    fast: Any = torch.compile(module, dynamic=False)
    try:
        with torch.inference_mode():
            fast(*(each.to(device) for each in example_inputs(model.spec, batch=1, seed=0)))
    except Exception as error:
        # Compilers fail in many ways, at the first call; torch has no one class for it.
        told = str(error).strip().splitlines()[:1]
        raise RunnerUnavailable(f"{model.name} cannot be compiled ({told}); set engine.compile: false") from error
    whole: torch.nn.Module = fast
    return whole
