"""What every runner promises, on each runner that this machine has."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.bundle import ModelBundle
from engine.errors import InputMismatch, RunnerUnavailable
from engine.golden import check_golden
from engine.runners import open_runner
from engine.runners.base import RunnableModel, Runner, RunnerName
from engine.runners.onnx_graph import graph_path
from tests.small_models import TILE_PX, denoiser, parts, small_bundle, tiles

RUNNERS: list[RunnerName] = ["torch", "onnxruntime"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return small_bundle(
        tmp_path_factory.mktemp("bundle") / "b",
        parts("sentinel-2"),
        parts("aerial", denoiser=denoiser(cond_chans=3), golden_cond=tiles(3, seed=1)),
    )


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", params=RUNNERS)
def opened(request: pytest.FixtureRequest, bundle: ModelBundle, cache_dir: Path) -> dict[str, Runner]:
    models = {
        "encoder": bundle.encoder_model("sentinel-2"),
        "denoiser": bundle.denoiser_model("sentinel-2"),
        "conditional": bundle.denoiser_model("aerial"),
    }
    return {
        name: open_runner(model, runner=request.param, device="cpu", threads=1, cache_dir=cache_dir)
        for name, model in models.items()
    }


def feeds(name: str, n: int) -> dict[str, np.ndarray]:
    if name == "encoder":
        return {"pixels": tiles(n, seed=n)}
    arrays = {"x": tiles(n, seed=n), "sigma": np.geomspace(0.002, 80, n).astype(np.float32)}
    return arrays if name == "denoiser" else arrays | {"cond": tiles(n, seed=n + 1)}


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("name", ["encoder", "denoiser", "conditional"])
def test_outputs_are_torchs_at_every_batch_size(
    opened: dict[str, Runner], bundle: ModelBundle, name: str, n: int
) -> None:
    module = {
        "encoder": lambda: bundle.encoder("sentinel-2"),
        "denoiser": lambda: bundle.denoiser("sentinel-2"),
        "conditional": lambda: bundle.denoiser("aerial"),
    }[name]()
    given = feeds(name, n)
    with torch.no_grad():
        result = module(*(torch.from_numpy(array) for array in given.values()))
    wanted = result if isinstance(result, tuple) else (result,)
    outputs = opened[name].run(given)
    assert list(outputs) == [spec.name for spec in opened[name].spec.outputs]
    for got, want in zip(outputs.values(), wanted, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want.numpy(), atol=1e-4, rtol=1e-4)


def test_a_tiles_result_does_not_depend_on_its_neighbours(opened: dict[str, Runner]) -> None:
    whole = opened["encoder"].run(feeds("encoder", 5))["cls"]
    alone = opened["encoder"].run({"pixels": feeds("encoder", 5)["pixels"][3:4]})["cls"]
    np.testing.assert_allclose(alone[0], whole[3], atol=1e-5)


def test_the_golden_batch_passes(opened: dict[str, Runner], bundle: ModelBundle) -> None:
    spec = bundle.family("sentinel-2")
    check_golden(bundle.golden("sentinel-2"), spec.odeed, opened["encoder"], opened["denoiser"])
    aerial = bundle.family("aerial")
    check_golden(bundle.golden("aerial"), aerial.odeed, opened["encoder"], opened["conditional"])


def test_wrong_inputs_name_both_sides(opened: dict[str, Runner]) -> None:
    good = feeds("denoiser", 2)
    side = TILE_PX
    for wrong, message in (
        ({"x": good["x"]}, r"\['x'\] were given; the model declares \['sigma', 'x'\]"),
        (good | {"cond": good["x"]}, r"'cond'.*declares \['sigma', 'x'\]"),
        (good | {"x": good["x"][:, :2]}, rf"\[2, 2, {side}, {side}\].*'N', 3, {side}, {side}"),
        (good | {"x": good["x"][:, :, :8]}, rf"\[2, 3, 8, {side}\].*'N', 3, {side}, {side}"),
        (good | {"x": good["x"].astype(np.float64)}, "float64.*float32"),
        (good | {"sigma": good["sigma"][:1]}, "'x': 2, 'sigma': 1"),
        ({"x": good["x"][:0], "sigma": good["sigma"][:0]}, "batch sizes"),
    ):
        with pytest.raises(InputMismatch, match=message):
            opened["denoiser"].run(wrong)


def test_strided_inputs_are_read_as_they_look_and_left_alone(opened: dict[str, Runner]) -> None:
    base = tiles(4)
    flipped = base[::-1, :, :, ::-1]
    np.testing.assert_allclose(
        opened["encoder"].run({"pixels": flipped})["cls"],
        opened["encoder"].run({"pixels": np.ascontiguousarray(flipped)})["cls"],
        atol=1e-6,
    )
    np.testing.assert_array_equal(base, tiles(4))


def test_outputs_belong_to_the_caller(opened: dict[str, Runner]) -> None:
    first = opened["encoder"].run(feeds("encoder", 2))["cls"]
    kept = first.copy()
    opened["encoder"].run(feeds("encoder", 5))
    np.testing.assert_array_equal(first, kept)
    first[:] = 0
    np.testing.assert_allclose(opened["encoder"].run(feeds("encoder", 2))["cls"], kept, atol=1e-6)


def test_threads_may_share_a_runner(opened: dict[str, Runner]) -> None:
    alone = [opened["denoiser"].run(feeds("denoiser", n))["denoised"] for n in (1, 2, 3, 4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda n: opened["denoiser"].run(feeds("denoiser", n))["denoised"], (1, 2, 3, 4)))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_closed_runner_refuses_work(bundle: ModelBundle, cache_dir: Path, runner: RunnerName) -> None:
    with open_runner(bundle.encoder_model("sentinel-2"), runner=runner, device="cpu", cache_dir=cache_dir) as opened:
        opened.run(feeds("encoder", 1))
    with pytest.raises(InputMismatch, match="is closed"):
        opened.run(feeds("encoder", 1))
    opened.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("runner", ["auto", "torch", "onnxruntime"])
def test_a_gpu_that_is_not_there_is_an_error_with_a_remedy(bundle: ModelBundle, runner: RunnerName) -> None:
    with pytest.raises(RunnerUnavailable, match=r"device cuda.*set device"):
        open_runner(bundle.encoder_model("sentinel-2"), runner=runner, device="cuda")


def test_unknown_names_are_refused(bundle: ModelBundle) -> None:
    model = bundle.encoder_model("sentinel-2")
    with pytest.raises(RunnerUnavailable, match="no runner 'tpu'"):
        open_runner(model, runner="tpu")  # type: ignore[arg-type]
    with pytest.raises(RunnerUnavailable, match="no device 'mps'"):
        open_runner(model, device="mps")  # type: ignore[arg-type]


def test_auto_on_the_cpu_is_onnxruntime_where_it_is_installed(
    bundle: ModelBundle, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bundle.encoder_model("sentinel-2")
    assert open_runner(model, device="cpu", cache_dir=cache_dir).name == "onnxruntime/cpu"
    find = importlib.util.find_spec
    monkeypatch.setattr("engine.runners.find_spec", lambda name: None if name == "onnxruntime" else find(name))
    assert open_runner(model, device="cpu", cache_dir=cache_dir).name == "torch/cpu"


def test_onnxruntime_is_imported_only_when_it_is_used() -> None:
    code = "import sys, engine.runners, engine.bundle, engine.bundle_writer; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def counting(model: RunnableModel) -> tuple[RunnableModel, list[int]]:
    builds: list[int] = []

    def build() -> torch.nn.Module:
        builds.append(1)
        return model.build()

    return replace(model, build=build), builds


def test_a_graph_is_exported_once_and_made_anew_when_damaged(bundle: ModelBundle, tmp_path: Path) -> None:
    model, builds = counting(bundle.denoiser_model("sentinel-2"))
    for expected_builds in (1, 1):
        with open_runner(model, runner="onnxruntime", cache_dir=tmp_path):
            assert len(builds) == expected_builds
    path = graph_path(model, tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(path.read_bytes()[:1000])
    with open_runner(model, runner="onnxruntime", cache_dir=tmp_path) as again:
        want = bundle.denoiser("sentinel-2")(*(torch.from_numpy(a) for a in feeds("denoiser", 2).values()))
        np.testing.assert_allclose(again.run(feeds("denoiser", 2))["denoised"], want.detach().numpy(), atol=1e-4)
    assert len(builds) == 2


def test_other_weights_are_another_graph(bundle: ModelBundle, tmp_path: Path) -> None:
    other = small_bundle(tmp_path / "b", parts("sentinel-2", denoiser=denoiser(seed=3)))
    same = small_bundle(tmp_path / "c", parts("sentinel-2"))
    path = graph_path(bundle.denoiser_model("sentinel-2"), tmp_path)
    assert graph_path(other.denoiser_model("sentinel-2"), tmp_path) != path
    assert graph_path(same.denoiser_model("sentinel-2"), tmp_path) == path


class Unfaithful(torch.nn.Module):
    """Computes something else while it is exported: stands for an exporter's bug."""

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale = 2.0 if torch.onnx.is_in_onnx_export() else 1.0
        tokens = pixels.flatten(2)[:, :1, :64].reshape(-1, 4, 16) * scale
        return tokens[:, 0], tokens


def test_a_graph_that_computes_something_else_is_refused_and_not_kept(bundle: ModelBundle, tmp_path: Path) -> None:
    model = replace(bundle.encoder_model("sentinel-2"), build=lambda: Unfaithful().eval())
    with pytest.raises(RunnerUnavailable, match="'cls' differs from torch"):
        open_runner(model, runner="onnxruntime", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_newer_exporter_gives_the_same_numbers(
    bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*args: object) -> bytes:
        raise TypeError("this torch has no TorchScript exporter")

    gone.__name__ = "trace_graph"
    monkeypatch.setattr("engine.runners.onnx_graph.trace_graph", gone)
    model = bundle.denoiser_model("sentinel-2")
    with open_runner(model, runner="onnxruntime", cache_dir=tmp_path) as runner:
        want = bundle.denoiser("sentinel-2")(*(torch.from_numpy(a) for a in feeds("denoiser", 3).values()))
        np.testing.assert_allclose(runner.run(feeds("denoiser", 3))["denoised"], want.detach().numpy(), atol=1e-4)
    monkeypatch.setattr("engine.runners.onnx_graph.capture_graph", gone)
    with pytest.raises(RunnerUnavailable, match=r"no TorchScript exporter.*runner: torch"):
        open_runner(model, runner="onnxruntime")
