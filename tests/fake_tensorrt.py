"""TensorRT's Python interface on the CPU: as much of it as `engine/runners/tensorrt.py` calls.

A "plan" is the ONNX graph itself; running one reads the inputs from their addresses, asks ONNX Runtime, and writes the
outputs to theirs. A mistake in shapes, addresses or lifetimes therefore shows as it would on a GPU, as wrong numbers.
`tests/unit/test_tensorrt.py` holds these names against the real binding where that can be imported.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import onnx
import onnxruntime

__version__ = "11.2.1.2"

TIMING = b"timings of " + __version__.encode()


class ILogger:
    class Severity(IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def log(self, severity: Any, message: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    pass


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 0


class BuilderFlag(IntEnum):
    TF32 = 6


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        assert flags == 1, "a network that is not strongly typed"
        self.graph = b""


class ParserError:
    def __init__(self, told: str) -> None:
        self.told = told

    def desc(self) -> str:
        return self.told


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self.network = network
        self.errors: list[ParserError] = []

    def parse(self, model: bytes) -> bool:
        try:
            onnx.checker.check_model(onnx.load_from_string(model))
        except Exception as error:
            self.errors.append(ParserError(f"not a model: {type(error).__name__}"))
            return False
        self.network.graph = model
        return True

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> ParserError:
        return self.errors[index]


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:  # noqa: A002
        self.shapes[input] = (min, opt, max)


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return TIMING


class IBuilderConfig:
    def __init__(self) -> None:
        self.progress_monitor: Any = None
        self.flags = {BuilderFlag.TF32}
        self.profiles: list[IOptimizationProfile] = []
        self.timing: ITimingCache | None = None

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache.content not in (b"", TIMING):
            return False
        self.timing = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self.timing


class Builder:
    builds = 0
    """In this process, since the count was set to 0."""
    seen_timing: bytes | None = None

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        assert not config.flags, "TF32 is on"
        monitor = config.progress_monitor
        monitor.phase_start("Building Engine", None, 4)
        monitor.phase_start("Timing kernels", "Building Engine", 2)
        monitor.step_complete("Timing kernels", 0)
        for step in range(4):
            if not monitor.step_complete("Building Engine", step):
                self.logger.log(ILogger.INFO, "cancelled")
                return None
        monitor.phase_finish("Timing kernels")
        monitor.phase_finish("Building Engine")
        Builder.builds += 1
        assert config.timing is not None
        Builder.seen_timing = config.timing.content
        largest = next(iter(config.profiles[0].shapes.values()))[2][0]
        return b"PLAN%04d" % largest + network.graph


class IExecutionContext:
    runs = 0
    """In this process, since the count was set to 0."""

    def __init__(self, engine: ICudaEngine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.memory: tuple[int, int] | None = None

    def set_device_memory(self, memory: int, size: int) -> None:
        self.memory = (memory, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if shape[0] > self.engine.largest:
            self.engine.logger.log(ILogger.ERROR, f"{shape} is out of the profile's range")
            return False
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return memory != 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self.memory is not None
        assert self.memory[1] >= self.engine.device_memory_size_v2
        if self.engine.refuse:
            self.engine.logger.log(ILogger.ERROR, self.engine.refuse)
            return False
        IExecutionContext.runs += 1
        feeds = {name: _at(self.addresses[name], shape) for name, shape in self.shapes.items()}
        outputs = [each.name for each in self.engine.session.get_outputs()]
        for name, value in zip(outputs, self.engine.session.run(outputs, feeds), strict=True):
            _at(self.addresses[name], value.shape)[...] = value
        return True


class ICudaEngine:
    device_memory_size_v2 = 4096
    refuse = ""
    """Error with which every run fails; empty: none does."""

    def __init__(self, graph: bytes, largest: int, logger: ILogger) -> None:
        self.largest = largest
        self.logger = logger
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(graph, options)
        self.inputs = [each.name for each in self.session.get_inputs()]
        self.outputs = [each.name for each in self.session.get_outputs()]

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> IExecutionContext:
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        return IExecutionContext(self)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        if not serialized_engine.startswith(b"PLAN"):
            self.logger.log(ILogger.ERROR, "the plan has another version")
            return None
        return ICudaEngine(serialized_engine[8:], int(serialized_engine[4:8]), self.logger)


def _at(address: int, shape: Sequence[int]) -> np.ndarray:
    """The float32 array at an address."""
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)
