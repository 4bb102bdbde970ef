"""What can only be seen on a GPU. Runs with pytest and the engine alone."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.bundle import ModelBundle
from engine.errors import RunnerUnavailable
from engine.golden import check_golden
from engine.odeed import Odeed, round_trip
from engine.runners import Candidate, RunnerOptions, open_candidate
from engine.runners.device_runner import DeviceRunner
from engine.runners.torch import TorchRunner
from tests.small_models import parts, small_bundle, tiles

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here"),
]
WAYS = [Candidate(runner="torch", device="cuda")] + [
    Candidate(runner="tensorrt", device="cuda", precision=precision)  # type: ignore[arg-type]
    for precision in ("fp32", "fp16", "bf16")
]
TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 6e-2}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "b", parts("sentinel-2"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(params=WAYS, ids=str)
def opened(request: pytest.FixtureRequest, bundle: ModelBundle, cache: Path) -> Any:
    options = RunnerOptions(cache_dir=cache, batch_size=8)
    try:
        runner = open_candidate(bundle.denoiser_model("sentinel-2"), request.param, options)
    except RunnerUnavailable as error:
        if "cannot be imported" in str(error):
            pytest.skip(f"no TensorRT here: {error}")
        raise
    with runner:
        yield runner, request.param


def feeds(rows: int) -> dict[str, np.ndarray]:
    return {"x": tiles(rows, seed=rows), "sigma": np.geomspace(0.01, 5, rows).astype(np.float32)}


def test_numbers_are_the_cpus(opened: Any, bundle: ModelBundle) -> None:
    runner, way = opened
    reference = TorchRunner(bundle.denoiser_model("sentinel-2"))
    for rows in (1, 3, 8, 21):
        want = reference.run(feeds(rows))["denoised"]
        for _ in range(2):  # the second time by the graph
            got = runner.run(feeds(rows))["denoised"]
            assert np.abs(got - want).max() <= TOLERANCE[way.precision] * np.abs(want).max()


def test_the_loop_with_graphs_is_the_loop_without_and_repeats_itself(opened: Any, bundle: ModelBundle) -> None:
    runner, way = opened
    assert isinstance(runner, DeviceRunner)
    settings = bundle.family("sentinel-2").odeed
    x = tiles(21)
    runner.graphs = True
    once, twice = (round_trip(runner, x, settings.schedule(), "heun") for _ in range(2))
    np.testing.assert_allclose(once, twice, atol=1e-5)
    runner.graphs = False
    np.testing.assert_allclose(round_trip(runner, x, settings.schedule(), "heun"), once, atol=1e-4)
    want = round_trip(TorchRunner(bundle.denoiser_model("sentinel-2")), x, settings.schedule(), "heun")
    assert np.abs(once - want).max() <= 10 * TOLERANCE[way.precision]


def test_threads_share_the_runner(opened: Any) -> None:
    runner, _ = opened
    alone = [runner.run(feeds(rows))["denoised"] for rows in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda rows: runner.run(feeds(rows))["denoised"], range(1, 9)))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_single_precision_passes_the_golden_batch(bundle: ModelBundle, cache: Path) -> None:
    options, way = RunnerOptions(cache_dir=cache, batch_size=8), WAYS[0]
    with (
        open_candidate(bundle.encoder_model("sentinel-2"), way, options) as encoder,
        open_candidate(bundle.denoiser_model("sentinel-2"), way, options) as denoiser,
    ):
        settings = bundle.family("sentinel-2").odeed
        check_golden(bundle.golden("sentinel-2"), settings, encoder, denoiser)
        assert np.isfinite(Odeed(denoiser, settings).score(tiles(5), np.ones((5, 16, 16), np.bool_)).score).all()


def test_memory_that_is_full_halves_the_batch(bundle: ModelBundle, cache: Path) -> None:
    rows = 4096
    want = TorchRunner(bundle.denoiser_model("sentinel-2")).run(feeds(rows))["denoised"]
    options = RunnerOptions(cache_dir=cache, batch_size=rows)
    with open_candidate(bundle.denoiser_model("sentinel-2"), WAYS[0], options) as runner:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, 192 * 2**20 / total))
        try:
            got = runner.run(feeds(rows))["denoised"]
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert isinstance(runner, DeviceRunner)
        assert runner.largest < rows
    assert np.abs(got - want).max() <= 1e-3 * np.abs(want).max()


BREAKS = """
import torch
from engine.errors import DeviceLost
from engine.runners.cuda import CudaQueue, probe
from engine.runners.device_runner import DeviceRunner
from engine.runners.torch_plan import TorchPlan
from tests.unit.test_device_runner import SPEC, feeds

class Breaks(torch.nn.Module):
    def forward(self, x, sigma):
        far = torch.full((1,), 2**40, device=x.device, dtype=torch.int64)
        return x + torch.zeros(4, device=x.device)[far]  # an index out of range: a device-side assertion

runner = DeviceRunner("d", SPEC, TorchPlan(Breaks(), SPEC), make_queue=CudaQueue, probe=probe, largest=4, graphs=False)
try:
    runner.run(feeds(2))
except DeviceLost as error:
    print("LOST", error)
"""


def test_a_broken_context_is_told_as_lost() -> None:
    done = subprocess.run([sys.executable, "-c", BREAKS], capture_output=True, text=True, check=False, timeout=120)
    assert "LOST" in done.stdout, done.stderr[-2000:]
