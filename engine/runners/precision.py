"""An ONNX graph in half precision, with islands that stay in single precision.

TensorRT 11 takes a network as it is typed, so the precision of each operation is decided here, in the graph. Matrix
products and convolutions, and the elementwise work between them, go to FP16 or BF16. Norms, softmax, exponentials and
reductions stay FP32, and so does every node whose path matches one of the model's own patterns
(:attr:`~engine.runners.base.RunnableModel.float32`): EDM's preconditioning, for example, where c_skip x and c_out F
nearly cancel. Nodes that only move data have the precision of what they move. Casts stand at the shores, one for each
tensor; inputs and outputs of the graph stay FP32.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from engine.errors import RunnerUnavailable

Precision = Literal["fp32", "fp16", "bf16"]

_HALF: Mapping[str, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_TORCH: Mapping[int, torch.dtype] = {TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16}

COMPUTES = frozenset(
    {"Conv", "ConvTranspose", "MatMul", "Gemm", "Add", "Sub", "Mul", "Div", "Neg", "Concat", "Where"}
    | {"Sigmoid", "Tanh", "Erf", "Gelu", "Relu", "Silu", "Swish", "MaxPool", "Pad"}
)
"""Operations that half precision does well enough; what is in neither list stays FP32."""
MOVES = frozenset(
    {"Reshape", "Transpose", "Slice", "Gather", "Squeeze", "Unsqueeze", "Split", "Expand", "Flatten", "Identity"}
    | {"Resize"}
)
"""Operations that copy elements of their first input."""
ALWAYS_FLOAT32: Mapping[str, tuple[int, ...]] = {"Resize": (1, 2)}
"""Inputs that ONNX wants in FP32 whatever the data are."""
BF16_OPSET = 22
"""The first version of ONNX's operations whose convolution knows BF16."""


def lower_precision(graph: bytes, precision: Precision, islands: Sequence[str]) -> bytes:
    """The graph in ``precision``, with FP32 islands.

    Args:
        graph: a serialised FP32 model with one graph, its nodes named by the modules that they come from.
        precision: ``fp32`` gives the graph back as it is.
        islands: regular expressions, searched for in :func:`path_of` each node; a match stays FP32.

    Raises:
        RunnerUnavailable: the graph has subgraphs or functions, or a pattern matches no node: an island that is not
            found would be flooded in silence.
    """
    if precision == "fp32":
        return graph
    model = onnx.load_from_string(graph)
    for i, node in enumerate(model.graph.node):
        # Into the name, since the conversion below drops metadata.
        node.name = f"{path_of(node)}#{i}"
        node.ClearField("metadata_props")
    if precision == "bf16":
        model = onnx.version_converter.convert_version(model, BF16_OPSET)
    if model.functions or any(attribute.g.node for node in model.graph.node for attribute in node.attribute):
        raise RunnerUnavailable(f"a graph with subgraphs cannot be brought to {precision}; set precision: fp32")
    for pattern in islands:
        if not any(re.search(pattern, path_of(node)) for node in model.graph.node):
            raise RunnerUnavailable(
                f"no node of the graph matches the FP32 island {pattern!r}, so {precision} is not safe; set precision: "
                "fp32"
            )
    _Lowering(model, _HALF[precision], islands).apply()
    onnx.checker.check_model(model)
    return cast("bytes", model.SerializeToString())


def path_of(node: Any) -> str:
    """Where a node comes from: names of modules and of the operation, as ``/net/down/0/norm1/Mul``.

    Both of torch's exporters say it: tracing in the node's name, capture in a list of its metadata.
    """
    scopes = next((each.value for each in node.metadata_props if each.key == "pkg.torch.onnx.name_scopes"), None)
    if scopes is None:
        return str(node.name).replace(".", "/")
    *modules, operation = ast.literal_eval(scopes)
    module = modules[-1].replace(".", "/") if modules else ""
    return f"/{module}/{operation}" if module else f"/{operation}"


class _Lowering:
    """One pass over the nodes, which ONNX keeps in the order of computation."""

    def __init__(self, model: Any, half: int, islands: Sequence[str]) -> None:
        self.graph = model.graph
        self.half = half
        self.islands = [re.compile(pattern) for pattern in islands]
        _constants_to_initializers(self.graph)
        self.weights = {weight.name: weight for weight in self.graph.initializer}
        self.type_of = _element_types(model)
        self.casts: dict[tuple[str, int], str] = {}
        self.nodes: list[Any] = []
        self.lowered: list[Any] = []
        """Weights as some node wants them."""

    def apply(self) -> None:
        """Rewrite the graph in place."""
        outputs = {output.name for output in self.graph.output}
        for node in list(self.graph.node):
            wanted = self._precision_of(node)
            fixed = ALWAYS_FLOAT32.get(node.op_type, ())
            for i, name in enumerate(node.input):
                if name and self._is_float(name):
                    node.input[i] = self._as(name, TensorProto.FLOAT if i in fixed else wanted)
            self.nodes.append(node)
            for i, name in enumerate(node.output):
                if name and self._is_float(name) and wanted == self.half:
                    self.type_of[name] = self.half
                    if name in outputs:
                        self._shield(node, i, name)
        used = {name for node in self.nodes for name in node.input} | outputs
        kept = [weight for weight in (*self.graph.initializer, *self.lowered) if weight.name in used]
        for field, values in (("node", self.nodes), ("initializer", kept), ("value_info", [])):
            self.graph.ClearField(field)
            getattr(self.graph, field).extend(values)

    def _precision_of(self, node: Any) -> int:
        path = path_of(node)
        if any(island.search(path) for island in self.islands):
            return int(TensorProto.FLOAT)
        if node.op_type in MOVES:
            return self.half if self.type_of.get(node.input[0]) == self.half else int(TensorProto.FLOAT)
        return self.half if node.op_type in COMPUTES else int(TensorProto.FLOAT)

    def _is_float(self, name: str) -> bool:
        return self.type_of.get(name) in (TensorProto.FLOAT, self.half)

    def _as(self, name: str, wanted: int) -> str:
        """The name under which a tensor is to be had in a type; adds a cast, or a converted weight, once."""
        if self.type_of[name] == wanted:
            return name
        key = (name, wanted)
        if key not in self.casts:
            self.casts[key] = f"{name}__{TensorProto.DataType.Name(wanted).lower()}"
            if name in self.weights:
                self.lowered.append(_converted(self.weights[name], wanted, self.casts[key]))
            else:
                self.nodes.append(helper.make_node("Cast", [name], [self.casts[key]], f"{name}/to_{wanted}", to=wanted))
        return self.casts[key]

    def _shield(self, node: Any, at: int, name: str) -> None:
        """Keep an output of the graph FP32 under its name."""
        inner = f"{name}__inner"
        node.output[at] = inner
        self.type_of[inner] = self.half
        self.type_of[name] = int(TensorProto.FLOAT)
        self.nodes.append(helper.make_node("Cast", [inner], [name], f"{name}/to_output", to=TensorProto.FLOAT))


def _constants_to_initializers(graph: Any) -> None:
    kept = []
    for node in graph.node:
        value = next((a for a in node.attribute if a.name in ("value", "value_float")), None)
        if node.op_type != "Constant" or value is None:
            kept.append(node)
            continue
        tensor = TensorProto()
        if value.name == "value":
            tensor.CopyFrom(value.t)
        else:
            tensor.CopyFrom(helper.make_tensor("", TensorProto.FLOAT, [], [value.f]))
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    graph.ClearField("node")
    graph.node.extend(kept)


def _element_types(model: Any) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {each.name: each.type.tensor_type.elem_type for each in (*graph.input, *graph.value_info, *graph.output)}
    types |= {weight.name: weight.data_type for weight in graph.initializer}
    unknown = [name for node in graph.node for name in node.output if name and not types.get(name)]
    if unknown:
        raise RunnerUnavailable(f"the types of {unknown[:3]} in the graph cannot be told; set precision: fp32")
    return types


def _converted(weight: Any, wanted: int, name: str) -> Any:
    value = torch.from_numpy(numpy_helper.to_array(weight).copy()).to(_TORCH[wanted])
    # BF16 has no type in numpy: its bits go over as integers.
    return helper.make_tensor(name, wanted, list(weight.dims), value.view(torch.int16).numpy().tobytes(), raw=True)
