"""TensorRT 10 and 11: building plans from ONNX, loading them, and running them on torch's tensors.

The only file that names TensorRT. What differs between versions, and between the package names ``tensorrt`` and
``tensorrt_bindings``, is settled here:

- both take a strongly typed network, which 11 knows alone: precision is in the graph
  (:mod:`engine.runners.precision`), never a flag of the builder;
- scratch memory is ``device_memory_size_v2`` and ``set_device_memory(address, size)`` from 10.1 on; 10.0 is refused.
"""

from __future__ import annotations

import importlib
import logging
import threading
from typing import Any

import torch

from engine.errors import RunnerUnavailable
from engine.runners.base import ArraySpec, InputSpec
from engine.runners.build_watch import BuildWatch
from engine.runners.cuda import driver_version, require_cuda
from engine.runners.device import BatchProfile, Queue, Tensors
from engine.runners.faults import PlanError
from engine.runners.plan_cache import DeviceIdentity

NAMES = ("tensorrt", "tensorrt_bindings")
"""The metapackage's name, and that of its binding alone."""
OLDEST = (10, 1)

log = logging.getLogger(__name__)


def library() -> Any:
    """The TensorRT module of this machine, under whichever name.

    Raises:
        RunnerUnavailable: there is none, its libraries are missing, or it is too old.
    """
    failures = []
    for name in NAMES:
        try:
            trt = importlib.import_module(name)
        except (ImportError, OSError) as error:
            failures.append(f"{name}: {error}")
            continue
        version = tuple(int(part) for part in str(trt.__version__).split(".")[:2])
        if version < OLDEST:
            raise RunnerUnavailable(f"TensorRT {trt.__version__} is too old; install 10.1 or newer (vigie[gpu])")
        return trt
    raise RunnerUnavailable(
        f"TensorRT cannot be imported ({'; '.join(failures)}): pip install vigie[gpu], or put the folder of "
        "libnvinfer.so on LD_LIBRARY_PATH, or set runner: torch"
    )


class TensorRt:
    """Builds and loads plans on the current CUDA device (:class:`engine.runners.device.PlanMaker`)."""

    def __init__(self, trt: Any) -> None:
        """Open.

        Args:
            trt: from :func:`library`.

        Raises:
            RunnerUnavailable: there is no CUDA device. Asked first: without one TensorRT's own objects crash.
        """
        require_cuda("TensorRT")
        self._trt = trt
        self._log = _logger(trt)
        self._runtime = trt.Runtime(self._log)

    def identity(self) -> DeviceIdentity:
        """GPU, driver and TensorRT of this process."""
        major, minor = torch.cuda.get_device_capability()
        return DeviceIdentity(
            name=torch.cuda.get_device_name(),
            compute_capability=f"{major}.{minor}",
            driver=driver_version(),
            library=str(self._trt.__version__),
        )

    def build(
        self, graph: bytes, spec: InputSpec, profile: BatchProfile, timing: bytes, watch: BuildWatch
    ) -> tuple[bytes, bytes]:
        """As :class:`~engine.runners.device.PlanMaker` says."""
        trt = self._trt
        try:
            builder = trt.Builder(self._log)
        except TypeError as error:  # What pybind makes of a factory that returns nothing.
            raise RunnerUnavailable(f"TensorRT {trt.__version__} has no builder here: {self._log.last}") from error
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._log)
        if not parser.parse(graph):
            told = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
            raise RunnerUnavailable(f"TensorRT {trt.__version__} cannot read the graph: {told or self._log.last}")
        config = builder.create_builder_config()
        # FP32 is to mean FP32: TF32 keeps ten bits of a factor, too few for an island.
        config.clear_flag(trt.BuilderFlag.TF32)
        config.progress_monitor = _monitor(trt, watch)
        shapes = builder.create_optimization_profile()
        for each in spec.inputs:
            largest = _shape(each, profile.largest)
            shapes.set_shape(each.name, _shape(each, 1), largest, largest)
        if config.add_optimization_profile(shapes) < 0:
            raise RunnerUnavailable(f"TensorRT refused the batch sizes {profile.label}: {self._log.last}")
        if not config.set_timing_cache(config.create_timing_cache(timing), False):
            # Of another version, although its label says not: measured anew.
            config.set_timing_cache(config.create_timing_cache(b""), False)
        plan = builder.build_serialized_network(network, config)
        watch.check()
        if plan is None:
            raise RunnerUnavailable(f"TensorRT {trt.__version__} built no plan: {self._log.last}")
        return bytes(memoryview(plan)), bytes(memoryview(config.get_timing_cache().serialize()))

    def load(self, plan: bytes) -> TensorRtPlan:
        """As :class:`~engine.runners.device.PlanMaker` says."""
        loaded = self._runtime.deserialize_cuda_engine(plan)
        if loaded is None:
            raise RunnerUnavailable(f"TensorRT {self._trt.__version__} does not take the plan: {self._log.last}")
        return TensorRtPlan(self._trt, self._log, loaded)


class TensorRtPlan:
    """A plan that TensorRT has loaded (:class:`engine.runners.device.Plan`)."""

    def __init__(self, trt: Any, logger: Any, loaded: Any) -> None:
        self.scratch_bytes: int = loaded.device_memory_size_v2
        self._trt = trt
        self._log = logger
        self._loaded = loaded
        self._making = threading.Lock()

    def bind(self, tensors: Tensors, queue: Queue, scratch: torch.Tensor | None) -> TensorRtBound:
        """A context of its own for each batch size: what a CUDA graph has recorded must never change its shapes.

        Contexts of one lane share its scratch memory, since they run one after another.

        Raises:
            PlanError: TensorRT refuses a shape or an address, or has no memory for another context.
        """
        with self._making:
            context = self._loaded.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise PlanError(f"TensorRT makes no context: {self._log.last}")
        if scratch is not None:
            context.set_device_memory(scratch.data_ptr(), scratch.numel())
        names = [self._loaded.get_tensor_name(i) for i in range(self._loaded.num_io_tensors)]
        for name in names:
            tensor = tensors[name]
            is_input = self._loaded.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
            if is_input and not context.set_input_shape(name, tuple(tensor.shape)):
                raise PlanError(f"TensorRT refuses {name!r} of shape {tuple(tensor.shape)}: {self._log.last}")
            if not tensor.is_contiguous() or not context.set_tensor_address(name, tensor.data_ptr()):
                raise PlanError(f"TensorRT refuses the memory of {name!r}: {self._log.last}")
        kept = tuple(tensors[name] for name in names)
        return TensorRtBound(context, queue.handle, self._log, kept, scratch)


class TensorRtBound:
    """A context with shapes and addresses; keeps the memory that TensorRT knows only by its address."""

    def __init__(
        self, context: Any, stream: int, logger: Any, tensors: tuple[torch.Tensor, ...], scratch: torch.Tensor | None
    ) -> None:
        self._context = context
        self._stream = stream
        self._log = logger
        self._memory = (tensors, scratch)

    def enqueue(self) -> None:
        """Put one evaluation on the stream.

        Raises:
            PlanError: TensorRT did not take it.
        """
        if not self._context.execute_async_v3(self._stream):
            raise PlanError(f"TensorRT did not run: {self._log.last}")


def _shape(spec: ArraySpec, rows: int) -> tuple[int, ...]:
    return tuple(rows if side == -1 else side for side in spec.shape)


def _logger(trt: Any) -> Any:
    """TensorRT's log, as ours; its class exists only once the library is there."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        """Passes lines on, and keeps the last error, since calls that fail say only that they did."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "it gives no reason"

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.last = message
                log.error("TensorRT: %s", message)
            elif severity == trt.ILogger.WARNING:
                log.warning("TensorRT: %s", message)
            else:
                log.debug("TensorRT: %s", message)

    return Logger()


def _monitor(trt: Any, watch: BuildWatch) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """A build's steps, on TensorRT's threads. It must not raise: there is nobody to catch."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            watch.phase(phase_name, parent_phase or None, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watch.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            watch.end(phase_name)

    return Monitor()
