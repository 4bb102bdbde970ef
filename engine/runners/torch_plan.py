"""A torch module as a plan: what lanes run where TensorRT does not, and on the CPU in tests."""

from __future__ import annotations

import torch
from torch import nn

from engine.runners.base import InputSpec
from engine.runners.device import Queue, Tensors


class TorchPlan:
    """A module in eval mode whose positional inputs and outputs stand in the order of the specification."""

    scratch_bytes = 0

    def __init__(self, module: nn.Module, spec: InputSpec) -> None:
        self._module = module
        self._spec = spec

    def bind(self, tensors: Tensors, queue: Queue, scratch: torch.Tensor | None) -> TorchBound:
        """Fix inputs and outputs."""
        return TorchBound(
            self._module,
            [tensors[each.name] for each in self._spec.inputs],
            [tensors[each.name] for each in self._spec.outputs],
        )


class TorchBound:
    """The module on given tensors."""

    def __init__(self, module: nn.Module, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        self._module = module
        self._inputs = inputs
        self._outputs = outputs

    def enqueue(self) -> None:
        """Evaluate, on torch's current stream."""
        result = self._module(*self._inputs)
        for output, value in zip(self._outputs, result if isinstance(result, tuple) else (result,), strict=True):
            output.copy_(value)
