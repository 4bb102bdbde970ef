"""Half precision with FP32 islands: where they are, and that numbers stay near torch's."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from engine.bundle import ModelBundle
from engine.errors import RunnerUnavailable
from engine.runners.base import RunnableModel
from engine.runners.onnx_graph import capture_graph, example_inputs, trace_graph
from engine.runners.precision import lower_precision, path_of
from tests.small_models import parts, small_bundle

FLOAT = TensorProto.FLOAT
HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunnableModel]:
    bundle: ModelBundle = small_bundle(tmp_path_factory.mktemp("bundle") / "b", parts("sentinel-2"))
    return {"encoder": bundle.encoder_model("sentinel-2"), "denoiser": bundle.denoiser_model("sentinel-2")}


Graphs = Callable[[str, str], bytes]


@pytest.fixture(scope="module")
def graph_of(models: dict[str, RunnableModel]) -> Graphs:
    made: dict[tuple[str, str], bytes] = {}

    def graph_of(what: str, exporter: str) -> bytes:
        if (what, exporter) not in made:
            export = {"trace": trace_graph, "capture": capture_graph}[exporter]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Deprecations inside torch.
                made[what, exporter] = export(models[what], models[what].build().eval())
        return made[what, exporter]

    return graph_of


def inputs(model: RunnableModel) -> dict[str, np.ndarray]:
    tensors = example_inputs(model.spec, batch=3, seed=0)
    return {spec.name: tensor.numpy() for spec, tensor in zip(model.spec.inputs, tensors, strict=True)}


def types_in(graph: bytes) -> tuple[Any, dict[str, int]]:
    model = onnx.load_from_string(graph)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {each.name: each.type.tensor_type.elem_type for each in (*inferred.input, *inferred.value_info)}
    types |= {each.name: each.type.tensor_type.elem_type for each in inferred.output}
    return model, types | {weight.name: weight.data_type for weight in model.graph.initializer}


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 5e-3), ("bf16", 3e-2)])
@pytest.mark.parametrize(("what", "exporter"), [("encoder", "trace"), ("denoiser", "trace"), ("denoiser", "capture")])
def test_numbers_stay_near_single_precision(
    models: dict[str, RunnableModel], graph_of: Graphs, what: str, exporter: str, precision: Any, tolerance: float
) -> None:
    """By ONNX's own reference evaluator, which rounds after every operation, as a strongly typed network does."""
    model, graph = models[what], graph_of(what, exporter)
    wanted = onnxruntime.InferenceSession(graph).run(None, inputs(model))
    lowered = onnx.load_from_string(lower_precision(graph, precision, model.float32))
    for have, want in zip(ReferenceEvaluator(lowered).run(None, inputs(model)), wanted, strict=True):
        assert have.dtype == np.float32
        difference = np.abs(have - want).max() / np.abs(want).max()
        assert 0 < difference < tolerance


def test_onnxruntime_takes_it_too(models: dict[str, RunnableModel], graph_of: Graphs) -> None:
    model, graph = models["denoiser"], graph_of("denoiser", "trace")
    (want,) = onnxruntime.InferenceSession(graph).run(None, inputs(model))
    lowered = lower_precision(graph, "fp16", model.float32)
    (have,) = onnxruntime.InferenceSession(lowered).run(None, inputs(model))
    assert np.abs(have - want).max() < 5e-3 * np.abs(want).max()
    assert len(lowered) < 0.8 * len(graph)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("exporter", ["trace", "capture"])
def test_islands_are_dry_and_the_rest_is_wet(
    models: dict[str, RunnableModel], graph_of: Graphs, exporter: str, precision: Any
) -> None:
    model = models["denoiser"]
    lowered, types = types_in(lower_precision(graph_of("denoiser", exporter), precision, model.float32))
    wet: set[str] = set()
    for node in lowered.graph.node:
        if node.op_type == "Cast":
            continue
        floats = {types[name] for name in (*node.input, *node.output) if types.get(name) in (FLOAT, HALF[precision])}
        path = path_of(node)
        if any(re.search(island, path) for island in model.float32) or node.op_type in ("Softmax", "ReduceMean"):
            assert HALF[precision] not in floats, path
        if HALF[precision] in floats:
            wet.add(node.op_type)
    assert {"Conv", "MatMul", "Concat"} <= wet
    # The preconditioning's last sum, c_skip x + c_out F, has FP32 on both sides.
    last = next(node for node in lowered.graph.node if model.spec.outputs[0].name in node.output)
    assert (last.op_type, types[last.input[0]], types[last.input[1]]) == ("Add", FLOAT, FLOAT)
    for each in (*lowered.graph.input, *lowered.graph.output):
        assert each.type.tensor_type.elem_type == FLOAT


def test_single_precision_is_the_graph_itself(graph_of: Graphs) -> None:
    graph = graph_of("encoder", "trace")
    assert lower_precision(graph, "fp32", ()) is graph


def test_an_island_that_is_not_there_is_an_error(graph_of: Graphs) -> None:
    with pytest.raises(RunnerUnavailable, match=r"'/head/'.*precision: fp32"):
        lower_precision(graph_of("encoder", "trace"), "fp16", ("/head/",))


def by_hand(*nodes: Any, outputs: tuple[str, ...] = ("y",)) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "by hand",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 4])],
        [helper.make_tensor_value_info(name, FLOAT, ["n", 4]) for name in outputs],
        [helper.make_tensor("w", FLOAT, [4, 4], np.eye(4, dtype=np.float32).ravel())],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def test_an_output_that_is_read_inside_too_stays_single_outside() -> None:
    graph = by_hand(
        helper.make_node("MatMul", ["x", "w"], ["y"], "/a"),
        helper.make_node("Add", ["y", "y"], ["z"], "/b"),
        outputs=("y", "z"),
    )
    x = np.asarray([[1, 2, 3, 1e-3]], np.float32)
    # Not by ONNX Runtime, which takes a cast to half and back for nothing.
    y, z = ReferenceEvaluator(onnx.load_from_string(lower_precision(graph, "fp16", ()))).run(None, {"x": x})
    rounded = x.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(y, rounded)
    np.testing.assert_array_equal(z, 2 * rounded)


def test_a_weight_of_both_worlds_has_both_precisions() -> None:
    graph = by_hand(
        helper.make_node("MatMul", ["x", "w"], ["a"], "/wet"), helper.make_node("Pow", ["a", "w"], ["y"], "/dry")
    )
    lowered, types = types_in(lower_precision(graph, "fp16", ("/dry",)))
    assert sorted(types[weight.name] for weight in lowered.graph.initializer) == [FLOAT, TensorProto.FLOAT16]


def test_subgraphs_are_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["b"])], "b", [], [helper.make_tensor_value_info("b", FLOAT, ["n", 4])]
    )
    graph = by_hand(
        helper.make_node("ReduceSum", ["x"], ["s"], "/s", keepdims=0),
        helper.make_node("Cast", ["s"], ["c"], "/c", to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], "/i", then_branch=branch, else_branch=branch),
    )
    with pytest.raises(RunnerUnavailable, match="subgraphs"):
        lower_precision(graph, "fp16", ())


def test_both_exporters_name_where_a_node_is_from(graph_of: Graphs) -> None:
    for exporter in ("trace", "capture"):
        paths = {path_of(node) for node in onnx.load_from_string(graph_of("denoiser", exporter)).graph.node}
        assert any(path.startswith("/net/last/") for path in paths)
        assert any(re.search(r"^/net/down/0/norm1/", path) for path in paths)
        assert any(re.search(r"^/(?!net/)", path) for path in paths)
