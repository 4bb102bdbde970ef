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

    Raises:
        RunnerUnavailable: the exporter cannot express the module.
    """
    module = module.eval()
    # The exporter specialises sizes 0 and 1; an example batch of 2 stays free.
    example = example_inputs(model.spec, batch=2, seed=0)
    batch = torch.export.Dim("batch", min=1)
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    try:
        registry.setLevel(logging.ERROR)  # It warns that torchvision, which nothing here uses, is absent.
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")  # Its own deprecations, not ours to heed.
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=[spec.name for spec in model.spec.inputs],
                output_names=[spec.name for spec in model.spec.outputs],
                dynamic_shapes=tuple({0: batch} for _ in example),
                verbose=False,
            )
            if program is None:
                raise RunnerUnavailable(f"{model.name}: torch exported no ONNX graph; use runner: torch")
            target = Path(folder) / "graph.onnx"
            program.save(target, external_data=False)
            return target.read_bytes()
    except RunnerUnavailable:
        raise
    except Exception as error:
        raise RunnerUnavailable(f"{model.name} cannot be exported to ONNX ({error}); use runner: torch") from error
    finally:
        registry.setLevel(level)


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
