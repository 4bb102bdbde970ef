"""The TensorRT runner without a GPU: its own logic on a double, and the double's names on the real binding."""

from __future__ import annotations

import importlib
import inspect
import logging
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.bundle import ModelBundle
from engine.errors import BuildStopped, DeviceMemoryFull, RunnerFailed, RunnerUnavailable
from engine.odeed import Odeed
from engine.runners.base import ArraySpec, InputSpec
from engine.runners.build_watch import BuildWatch
from engine.runners.cuda import driver_version
from engine.runners.device import BatchProfile, HostQueue
from engine.runners.device_runner import DeviceRunner
from engine.runners.plans import open_plan
from engine.runners.tensorrt import TensorRt, library
from engine.runners.torch import TorchRunner
from tests import fake_tensorrt
from tests.small_models import denoiser, parts, small_bundle, tiles

SPEC = InputSpec(inputs=(ArraySpec(name="x", shape=(-1, 2)),), outputs=(ArraySpec(name="y", shape=(-1, 2)),))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    folder = tmp_path_factory.mktemp("bundle") / "b"
    return small_bundle(
        folder,
        parts("sentinel-2"),
        parts("aerial", denoiser=denoiser(cond_chans=3), golden_cond=tiles(3, seed=1)),
    )


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of ONNX graphs, so that each is exported once."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose GPU has a name, and the double in TensorRT's place."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Double")
    fake_tensorrt.Builder.builds = 0
    fake_tensorrt.IExecutionContext.runs = 0
    yield
    fake_tensorrt.ICudaEngine.refuse = ""


def opened(bundle: ModelBundle, cache: Path, *, family: str = "sentinel-2", what: str = "denoiser", **more: Any) -> Any:
    model = bundle.denoiser_model(family) if what == "denoiser" else bundle.encoder_model(family)
    given: dict[str, Any] = {"precision": "fp16", "largest": 4, "watch": BuildWatch()} | more
    return open_plan(model, TensorRt(fake_tensorrt), cache_dir=cache, make_queue=HostQueue, probe=lambda: None, **given)


def feeds(rows: int, *, cond: bool = False) -> dict[str, np.ndarray]:
    arrays = {"x": tiles(rows, seed=rows), "sigma": np.geomspace(0.002, 5, rows).astype(np.float32)}
    return arrays | {"cond": tiles(rows, seed=9)} if cond else arrays


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 5e-3)])
def test_numbers_are_torchs_at_every_batch_size(
    bundle: ModelBundle, graphs: Path, precision: str, tolerance: float
) -> None:
    reference = TorchRunner(bundle.denoiser_model("aerial"), threads=1)
    with opened(bundle, graphs, family="aerial", precision=precision) as runner:
        assert runner.name == f"tensorrt/{precision}"
        for rows in (1, 2, 3, 4, 5, 11):
            given = feeds(rows, cond=True)
            want = reference.run(given)["denoised"]
            assert np.abs(runner.run(given)["denoised"] - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.usefixtures("cuda")
def test_the_encoder_runs_too(bundle: ModelBundle, graphs: Path) -> None:
    want = TorchRunner(bundle.encoder_model("sentinel-2"), threads=1).run({"pixels": tiles(3)})
    with opened(bundle, graphs, what="encoder") as runner:
        got = runner.run({"pixels": tiles(3)})
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, atol=5e-3)


@pytest.mark.usefixtures("cuda")
def test_odeed_is_one_call_of_the_runner_and_torchs_score(bundle: ModelBundle, graphs: Path) -> None:
    settings = bundle.family("sentinel-2").odeed
    x, valid = tiles(6), np.ones((6, 16, 16), np.bool_)
    want = Odeed(TorchRunner(bundle.denoiser_model("sentinel-2"), threads=1), settings).score(x, valid)
    with opened(bundle, graphs, precision="fp32") as runner:
        runner.run = None  # a loop that came back to the host for each evaluation would call it
        got = Odeed(runner, settings).score(x, valid)
    np.testing.assert_allclose(got.score, want.score, rtol=1e-3)
    assert got.nfe == want.nfe
    # 6 tiles are a batch of 4 and one of 2, each recorded as one call of so many evaluations.
    assert fake_tensorrt.IExecutionContext.runs == 2 * got.nfe


@pytest.mark.usefixtures("cuda")
def test_a_plan_is_built_once_with_timings_and_loaded_again(bundle: ModelBundle, tmp_path: Path) -> None:
    opened(bundle, tmp_path).close()
    assert (fake_tensorrt.Builder.builds, fake_tensorrt.Builder.seen_timing) == (1, b"")
    opened(bundle, tmp_path).close()
    assert fake_tensorrt.Builder.builds == 1
    opened(bundle, tmp_path, largest=8).close()  # another profile
    assert (fake_tensorrt.Builder.builds, fake_tensorrt.Builder.seen_timing) == (2, fake_tensorrt.TIMING)
    opened(bundle, tmp_path, precision="fp32").close()  # another graph
    assert fake_tensorrt.Builder.builds == 3


@pytest.mark.usefixtures("cuda")
def test_a_build_tells_where_it_is_and_beats(bundle: ModelBundle, tmp_path: Path) -> None:
    told: list[str] = []
    watch = BuildWatch(beat=lambda: told.append(watch.doing))
    opened(bundle, tmp_path, watch=watch).close()
    assert "building sentinel-2 denoiser in fp16: Building Engine 50 %" in told
    assert watch.doing == ""


@pytest.mark.usefixtures("cuda")
def test_a_build_that_is_told_to_stop_stops_and_keeps_nothing(bundle: ModelBundle, tmp_path: Path) -> None:
    watch = BuildWatch(stop=lambda: "25 %" in watch.doing)
    with pytest.raises(BuildStopped, match="done again at the next start"):
        opened(bundle, tmp_path, watch=watch)
    assert fake_tensorrt.Builder.builds == 0
    assert not list((tmp_path / "plans").glob("*.plan"))
    opened(bundle, tmp_path).close()
    assert fake_tensorrt.Builder.builds == 1


@pytest.mark.usefixtures("cuda")
def test_a_signed_plan_that_the_device_refuses_is_built_anew(
    bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        # Plans of a version that does not give its number right.
        patch.setattr(
            fake_tensorrt.Builder, "build_serialized_network", lambda self, network, config: b"OLD!0004" + network.graph
        )
        with pytest.raises(RunnerUnavailable, match="another version"):
            opened(bundle, tmp_path)
    with caplog.at_level(logging.WARNING), opened(bundle, tmp_path) as runner:
        runner.run(feeds(1))
    assert "refused by the device and built anew" in caplog.text


@pytest.mark.usefixtures("cuda")
def test_a_damaged_graph_is_exported_again(bundle: ModelBundle, tmp_path: Path) -> None:
    opened(bundle, tmp_path).close()
    (graph,) = tmp_path.glob("*.onnx")
    graph.write_bytes(graph.read_bytes()[:1000])
    opened(bundle, tmp_path).close()
    assert fake_tensorrt.Builder.builds == 1  # the same graph as before: its plan is there


@pytest.mark.usefixtures("cuda")
def test_a_graph_that_cannot_be_read_says_what_the_parser_said() -> None:
    with pytest.raises(RunnerUnavailable, match="cannot read the graph: not a model"):
        TensorRt(fake_tensorrt).build(b"nonsense", SPEC, BatchProfile(largest=1), b"", BuildWatch())


@pytest.mark.usefixtures("cuda")
def test_timings_of_another_version_are_measured_anew(bundle: ModelBundle, graphs: Path) -> None:
    with opened(bundle, graphs):
        (path,) = list(graphs.glob("*.onnx"))[:1]
    TensorRt(fake_tensorrt).build(
        path.read_bytes(), bundle.denoiser_model("sentinel-2").spec, BatchProfile(largest=1), b"old", BuildWatch()
    )
    assert fake_tensorrt.Builder.seen_timing == b""


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(("told", "kind"), [("CUDA error: out of memory", DeviceMemoryFull), ("no", RunnerFailed)])
def test_a_run_that_fails_is_told_by_tensorrts_own_words(
    bundle: ModelBundle, graphs: Path, told: str, kind: type[Exception]
) -> None:
    with opened(bundle, graphs) as runner:
        fake_tensorrt.ICudaEngine.refuse = told
        with pytest.raises(kind, match=told):
            runner.run(feeds(3))


@pytest.mark.usefixtures("cuda")
def test_a_batch_beyond_the_profile_cannot_happen_unseen(bundle: ModelBundle, graphs: Path) -> None:
    with opened(bundle, graphs) as runner:
        assert isinstance(runner, DeviceRunner)
        runner.largest = 8
        with pytest.raises(RunnerFailed, match="out of the profile's range"):
            runner.run(feeds(8))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_gpu_nothing_of_tensorrt_is_touched() -> None:
    with pytest.raises(RunnerUnavailable, match=r"sees no CUDA device.*set device"):
        TensorRt(types.SimpleNamespace())


def test_both_package_names_are_found_and_old_versions_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    there: dict[str, Any] = {}

    def found(name: str) -> Any:
        if name not in there:
            raise ImportError(f"no module {name}")
        return there[name]

    monkeypatch.setattr("engine.runners.tensorrt.importlib.import_module", found)
    with pytest.raises(RunnerUnavailable, match=r"tensorrt: no module.*tensorrt_bindings: no module.*runner: torch"):
        library()
    there["tensorrt_bindings"] = types.SimpleNamespace(__version__="11.2.1.2")
    assert library() is there["tensorrt_bindings"]
    there["tensorrt"] = types.SimpleNamespace(__version__="10.16.1.11")
    assert library() is there["tensorrt"]
    there["tensorrt"] = types.SimpleNamespace(__version__="8.6.1")
    with pytest.raises(RunnerUnavailable, match="too old"):
        library()


def test_a_machine_without_a_driver_says_so() -> None:
    version = driver_version()
    assert version == "unknown" or version[0].isdigit()


def real_binding() -> Any:
    for name in ("tensorrt", "tensorrt_bindings"):
        try:
            return importlib.import_module(name)
        except (ImportError, OSError):
            continue
    pytest.skip("no TensorRT binding can be imported here; deploy/docs/gpu.md says how to get one")


def test_the_double_has_no_name_that_tensorrt_lacks() -> None:
    real = real_binding()
    ours = {"refuse", "builds", "runs", "seen_timing"}
    for name, kind in vars(fake_tensorrt).items():
        if inspect.isclass(kind) and kind.__module__ == fake_tensorrt.__name__:
            has = set(dir(getattr(real, name)))
            assert {member for member in vars(kind) if not member.startswith("_")} - ours <= has, name
    assert int(real.BuilderFlag.TF32) == fake_tensorrt.BuilderFlag.TF32
    assert int(real.NetworkDefinitionCreationFlag.STRONGLY_TYPED) == 0
    for attribute in ("progress_monitor",):
        assert hasattr(real.IBuilderConfig, attribute)


def test_our_log_and_monitor_are_what_tensorrt_takes() -> None:
    from engine.runners.tensorrt import _logger, _monitor

    real = real_binding()
    watch = BuildWatch(stop=lambda: True)
    monitor = _monitor(real, watch)
    monitor.phase_start("p", None, 2)
    assert monitor.step_complete("p", 0) is False
    monitor.phase_finish("p")
    logger = _logger(real)
    logger.log(real.ILogger.ERROR, "wrong")
    assert logger.last == "wrong"
