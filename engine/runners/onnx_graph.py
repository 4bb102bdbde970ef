"""Torch modules to ONNX files with a free batch size, kept in a cache keyed by the weights."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import warnings
from pathlib import Path

import torch

from engine.errors import RunnerUnavailable
from engine.runners.base import InputSpec, RunnableModel

OPSET = 18


def graph_path(model: RunnableModel, cache_dir: Path) -> Path:
    """Where the graph of these weights, this specification and this exporter is kept."""
    made_by = f"opset {OPSET}, torch {torch.__version__}, {model.spec!r}"
    return cache_dir / f"{model.fingerprint}-{hashlib.sha256(made_by.encode()).hexdigest()[:12]}.onnx"


def export_graph(model: RunnableModel, module: torch.nn.Module) -> bytes:
    """The module as a serialised ONNX graph whose inputs and outputs carry the specification's names.

    Torch's older exporter goes first, since it takes about a second where the newer one takes ten; where a later
    torch has dropped it, the newer one does the work. Either result is compared with torch by the caller.

    Raises:
        RunnerUnavailable: neither exporter can express the module.
    """
    module = module.eval()
    failures = []
    for export in (trace_graph, capture_graph):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Deprecations inside torch, and shape checks that tracing drops.
                return export(model, module)
        except Exception as error:
            # Whatever an exporter raises, the other one may still do.
            failures.append(f"{export.__name__}: {type(error).__name__}: {error}")
    raise RunnerUnavailable(f"{model.name} cannot be exported to ONNX ({'; '.join(failures)}); use runner: torch")


def trace_graph(model: RunnableModel, module: torch.nn.Module) -> bytes:
    """Export by tracing (TorchScript)."""
    names = _names(model.spec)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "graph.onnx"
        torch.onnx.export(
            module,
            example_inputs(model.spec, batch=2, seed=0),
            target,
            dynamo=False,
            opset_version=OPSET,
            input_names=names[0],
            output_names=names[1],
            dynamic_axes={name: {0: "batch"} for name in (*names[0], *names[1])},
        )
        return target.read_bytes()


def capture_graph(model: RunnableModel, module: torch.nn.Module) -> bytes:
    """Export by capture (torch.export)."""
    names = _names(model.spec)
    # Capture specialises sizes 0 and 1; an example batch of 2 stays free.
    example = example_inputs(model.spec, batch=2, seed=0)
    batch = torch.export.Dim("batch", min=1)
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)  # It warns that torchvision, which nothing here uses, is absent.
    try:
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=names[0],
            output_names=names[1],
            dynamic_shapes=tuple({0: batch} for _ in example),
            verbose=False,
        )
    finally:
        registry.setLevel(level)
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def _names(spec: InputSpec) -> tuple[list[str], list[str]]:
    return [array.name for array in spec.inputs], [array.name for array in spec.outputs]


def keep_graph(graph: bytes, path: Path) -> None:
    """Write the graph so that another process sees all of it or none; the last of two writers wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(graph)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def example_inputs(spec: InputSpec, *, batch: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Positive pseudo-random inputs of a batch size; noise levels must be above 0."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.rand([batch if side == -1 else side for side in array.shape], generator=generator) + 0.1
        for array in spec.inputs
    )
