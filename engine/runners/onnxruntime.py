"""ONNX Runtime on the CPU: the default where there is no GPU."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from engine.errors import RunnerUnavailable
from engine.runners.base import Arrays, RunnableModel, Runner
from engine.runners.onnx_graph import example_inputs, export_graph, graph_path, keep_graph

EXPORT_TOLERANCE = 1e-4
"""Largest difference between a fresh graph and torch, over the largest output value."""

log = logging.getLogger(__name__)


class OnnxRuntimeRunner(Runner):
    """Runs a graph that was exported from the torch module and compared with it.

    Threads may share it: ``InferenceSession.run`` is safe to call at once.
    """

    def __init__(
        self, model: RunnableModel, *, device: str = "cpu", threads: int = 0, cache_dir: Path | None = None
    ) -> None:
        """Take the graph from the cache, or export, compare and keep it (seconds).

        Args:
            model: what to run.
            device: ``cpu``, or ``cuda`` with a build of onnxruntime that has its CUDA provider.
            threads: intra-op threads of this session, 0 for onnxruntime's default.
            cache_dir: folder for exported graphs; ``None`` exports each time and keeps nothing.

        Raises:
            RunnerUnavailable: the device is not there, or the exported graph does not compute what torch does.
        """
        provider = _provider(model, device)
        super().__init__(f"onnxruntime/{device}", model.spec)
        self._session: onnxruntime.InferenceSession | None = _open(model, provider, threads, cache_dir)

    def _compute(self, feeds: Arrays) -> Arrays:
        return _run(self._session, self.spec.outputs, feeds)

    def _release(self) -> None:
        self._session = None


def _provider(model: RunnableModel, device: str) -> str:
    name = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    if name not in onnxruntime.get_available_providers():
        raise RunnerUnavailable(
            f"{model.name}: device {device} was asked for, but onnxruntime {onnxruntime.__version__} has only "
            f"{onnxruntime.get_available_providers()}; set device: cpu, or runner: torch"
        )
    return name


def _open(model: RunnableModel, provider: str, threads: int, cache_dir: Path | None) -> onnxruntime.InferenceSession:
    path = None if cache_dir is None else graph_path(model, cache_dir)
    if path is not None and path.is_file():
        try:
            return _session(path.read_bytes(), provider, threads)
        except Exception as error:
            # onnxruntime raises a class per failure; whichever it is, a damaged file is made anew.
            log.warning("A cached graph cannot be opened and is exported again: %s (%s)", path, error)
    module = model.build()
    graph = export_graph(model, module)
    session = _session(graph, provider, threads)
    _compare(model, module, session)
    if path is not None:
        keep_graph(graph, path)
    return session


def _session(graph: bytes, provider: str, threads: int) -> onnxruntime.InferenceSession:
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, sess_options=options, providers=[provider])


def _compare(model: RunnableModel, module: torch.nn.Module, session: onnxruntime.InferenceSession) -> None:
    """Refuse a graph that differs from torch, or whose batch size did not stay free."""
    for batch in (1, 3):
        inputs = example_inputs(model.spec, batch=batch, seed=batch)
        with torch.inference_mode():
            result = module(*inputs)
        wanted = result if isinstance(result, tuple) else (result,)
        feeds = {spec.name: tensor.numpy() for spec, tensor in zip(model.spec.inputs, inputs, strict=True)}
        got = _run(session, model.spec.outputs, feeds)
        for spec, want in zip(model.spec.outputs, wanted, strict=True):
            reference = want.numpy()
            difference = np.abs(got[spec.name] - reference).max() / max(1.0, float(np.abs(reference).max()))
            if not difference <= EXPORT_TOLERANCE:
                raise RunnerUnavailable(
                    f"{model.name}: the exported graph's {spec.name!r} differs from torch by {difference:.1e} at batch "
                    f"{batch}, more than {EXPORT_TOLERANCE:.0e}; use runner: torch"
                )


def _run(session: onnxruntime.InferenceSession, outputs: tuple[object, ...], feeds: Arrays) -> Arrays:
    names = [spec.name for spec in outputs]  # type: ignore[attr-defined]
    return dict(zip(names, session.run(names, feeds), strict=True))
