"""Batches in flight, memory that is full, and broken devices, on the CPU in a device's place."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from engine.bundle import ModelBundle
from engine.errors import DeviceLost, DeviceMemoryFull, InputMismatch, RunnerFailed
from engine.ode import encode_decode, karras_sigmas
from engine.odeed import round_trip
from engine.runners.base import ArraySpec, InputSpec
from engine.runners.device import HostQueue, Queue, Tensors
from engine.runners.device_runner import DeviceRunner
from engine.runners.lanes import padded
from engine.runners.torch import TorchRunner
from engine.runners.torch_plan import TorchPlan
from tests.small_models import parts, small_bundle, tiles

SPEC = InputSpec(
    inputs=(ArraySpec(name="x", shape=(-1, 3, 2, 2)), ArraySpec(name="sigma", shape=(-1,))),
    outputs=(ArraySpec(name="denoised", shape=(-1, 3, 2, 2)),),
)
SCHEDULE = karras_sigmas(4, 0.01, 5.0)
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Shrinking:
    """D(x; sigma) = x / (1 + sigma^2), exactly EDM's ideal denoiser of unit white noise; fails when told to.

    Args:
        fails: called with the batch of each evaluation, and raises what a device would.
    """

    scratch_bytes = 64

    def __init__(self, fails: Callable[[int], None] = lambda rows: None) -> None:
        self.fails = fails
        self.sizes: list[int] = []
        self.scratches: set[int] = set()

    def bind(self, tensors: Tensors, queue: Queue, scratch: torch.Tensor | None) -> Shrinking._Bound:
        assert scratch is not None
        assert scratch.numel() == self.scratch_bytes
        self.scratches.add(scratch.data_ptr())
        return Shrinking._Bound(self, tensors)

    class _Bound:
        def __init__(self, plan: Shrinking, tensors: Tensors) -> None:
            self.plan = plan
            self.tensors = tensors

        def enqueue(self) -> None:
            x, sigma = self.tensors["x"], self.tensors["sigma"]
            self.plan.sizes.append(len(x))
            self.plan.fails(len(x))
            self.tensors["denoised"].copy_(x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2))


def runner(
    plan: Shrinking, *, largest: int = 8, probe: Callable[[], None] = lambda: None, **more: object
) -> DeviceRunner:
    return DeviceRunner("double", SPEC, plan, make_queue=HostQueue, probe=probe, largest=largest, **more)  # type: ignore[arg-type]


def feeds(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 3, 2, 2), dtype=np.float32)
    return {"x": x, "sigma": rng.uniform(0.01, 3, rows).astype(np.float32)}


def exact(given: dict[str, np.ndarray]) -> np.ndarray:
    return given["x"] / (1 + given["sigma"].reshape(-1, 1, 1, 1) ** 2)


def test_batches_are_rounded_up_to_powers_of_two() -> None:
    assert [padded(rows, 12) for rows in (1, 2, 3, 4, 5, 8, 9, 12)] == [1, 2, 4, 4, 8, 8, 12, 12]


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 8, 9, 30])
def test_every_row_comes_back_in_its_place(rows: int, graphs: bool) -> None:
    plan = Shrinking()
    with runner(plan, graphs=graphs) as opened:
        for seed in (0, 1):
            given = feeds(rows, seed)
            np.testing.assert_allclose(opened.run(given)["denoised"], exact(given), rtol=1e-6)
    assert set(plan.sizes) <= {1, 2, 4, 8}
    assert len(plan.scratches) <= 2  # one a lane, whatever the number of batch sizes


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_loop_on_the_device_is_the_loop_on_the_host(solver: str) -> None:
    given = feeds(11)["x"]

    def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
        return np.asarray(x / (1 + np.float32(sigma) ** 2), dtype=np.float32)

    want = encode_decode(denoise, given, SCHEDULE, solver).reconstruction  # type: ignore[arg-type]
    with runner(Shrinking()) as opened:
        for _ in range(2):  # the second time it is replayed
            got = round_trip(opened, given, SCHEDULE, solver)  # type: ignore[arg-type]
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_network_of_torch_in_lanes_is_the_eager_reference(tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle: ModelBundle = small_bundle(tmp_path_factory.mktemp("b") / "b", parts("sentinel-2"))
    model = bundle.denoiser_model("sentinel-2")
    reference = TorchRunner(model, threads=1)
    x = tiles(7)
    plan = TorchPlan(bundle.denoiser("sentinel-2"), model.spec)
    with DeviceRunner("d", model.spec, plan, make_queue=HostQueue, probe=lambda: None, largest=4) as lanes:
        got = round_trip(lanes, x, SCHEDULE, "heun")
    np.testing.assert_allclose(got, round_trip(reference, x, SCHEDULE, "heun"), rtol=1e-4, atol=1e-5)


def test_memory_that_is_full_halves_the_batch_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Fault test 19: no row is lost, none is done twice in the answer, and the smaller batch stays."""
    halved: list[int] = []

    def fits_three(rows: int) -> None:
        if rows > 3:
            raise OUT_OF_MEMORY

    plan = Shrinking(fits_three)
    given = feeds(21)
    with runner(plan, on_halving=lambda: halved.append(1)) as opened, caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(opened.run(given)["denoised"], exact(given), rtol=1e-6)
        assert opened.largest == 2
        assert len(halved) == 2
        plan.sizes.clear()
        np.testing.assert_allclose(opened.run(given)["denoised"], exact(given), rtol=1e-6)
        assert max(plan.sizes) == 2
    assert "goes on with batches of 2" in caplog.text


def test_rows_that_were_done_before_memory_was_full_are_kept() -> None:
    calls: list[int] = []

    def third_fails(rows: int) -> None:
        calls.append(rows)
        if len(calls) == 3:
            raise OUT_OF_MEMORY

    given = feeds(24)
    with runner(Shrinking(third_fails), lanes=1, graphs=False) as opened:
        np.testing.assert_allclose(opened.run(given)["denoised"], exact(given), rtol=1e-6)
    assert calls == [8, 8, 8, 4, 4]


def test_one_tile_that_does_not_fit_is_worth_another_try_later() -> None:
    def never(rows: int) -> None:
        raise OUT_OF_MEMORY

    with runner(Shrinking(never)) as opened:
        with pytest.raises(DeviceMemoryFull, match=r"not one tile fits.*device: cpu"):
            opened.run(feeds(4))
        opened._plan.fails = lambda rows: None  # type: ignore[union-attr, method-assign]
        assert len(opened.run(feeds(4))["denoised"]) == 4  # the others went away


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        OUT_OF_MEMORY,
        RuntimeError("anything at all"),
    ],
)
def test_a_device_that_answers_nothing_any_more_is_lost_whatever_was_raised(error: Exception) -> None:
    def breaks(rows: int) -> None:
        raise error

    def probe() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with runner(Shrinking(breaks), probe=probe) as opened, pytest.raises(DeviceLost, match=r"process ends.*Xid"):
        opened.run(feeds(2))


def test_a_sound_device_that_refuses_one_call_goes_on_with_the_next() -> None:
    def odd(rows: int) -> None:
        if rows == 4:
            raise RuntimeError("no kernel for this")

    with runner(Shrinking(odd)) as opened:
        with pytest.raises(RunnerFailed, match="no kernel for this"):
            opened.run(feeds(4))
        assert len(opened.run(feeds(2))["denoised"]) == 2


def test_threads_share_the_lanes_and_two_batches_fly_at_once() -> None:
    meet = threading.Barrier(2, timeout=20)
    plan = Shrinking(lambda rows: meet.wait() and None)
    inputs = [feeds(4, seed) for seed in range(6)]
    with runner(plan, graphs=False) as opened, ThreadPoolExecutor(6) as pool:
        # Each batch waits in the network for another one: with a single lane this would never end.
        for given, got in zip(inputs, pool.map(opened.run, inputs), strict=True):
            np.testing.assert_allclose(got["denoised"], exact(given), rtol=1e-6)


def test_what_is_not_declared_never_reaches_the_device() -> None:
    plan = Shrinking()
    with runner(plan) as opened:
        for wrong in ({}, {"x": feeds(2)["x"].astype(np.float64)}, {"x": feeds(2)["x"], "cond": feeds(2)["x"]}):
            with pytest.raises(InputMismatch):
                opened.round_trip(wrong, SCHEDULE, "euler")
    with pytest.raises(InputMismatch, match="is closed"):
        opened.round_trip({"x": feeds(2)["x"]}, SCHEDULE, "euler")
    assert plan.sizes == []
