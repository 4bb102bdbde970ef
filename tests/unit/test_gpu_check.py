"""The GPU check on a machine without a GPU: it says so, and its own code works on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.gpu.__main__ import NO_GPU, main, verdict
from tests.gpu.ways import flops_per_image, in_turns
from tests.small_models import parts, small_bundle


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_gpu_it_says_so_and_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "out")]) == NO_GPU
    assert "sees no CUDA device here; nothing was built, tested or measured" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_the_whole_check_on_the_cpu_reports_and_does_not_pass(tmp_path: Path) -> None:
    small_bundle(tmp_path / "bundle", parts("sentinel-2"))
    out = tmp_path / "out"
    given = ["--device", "cpu", "--bundle", str(tmp_path / "bundle"), "--batches", "1", "2", "--rounds", "2"]
    assert main([*given, "--no-tests", "--out", str(out)]) == 1  # TensorRT serves nothing here
    report = json.loads((out / "report.json").read_text())
    assert [(row["way"], row["passed"]) for row in report["opened"]] == [("torch eager", True), ("onnxruntime", True)]
    assert len(report["forward"]) == 2 * 2 * 2
    assert {row["way"]: row.get("times_eager") for row in report["odeed"]}["torch eager"] == 1.0
    page = (out / "report.md").read_text()
    assert "**Not passed.**" in page
    assert "cpu: no GPU figure" in page


def test_a_family_without_tensorrt_is_no_pass() -> None:
    row = {"family": "a", "way": "tensorrt fp16", "passed": True}
    assert verdict({"opened": [row], "tests": {}})
    assert not verdict({"opened": [row, {"family": "b", "way": "torch eager", "passed": True}], "tests": {}})
    assert not verdict({"opened": [row], "tests": {"passed": False}})
    assert not verdict({"opened": [row | {"passed": False}], "tests": {}})


def test_ways_are_timed_in_turns() -> None:
    order: list[str] = []
    ticks = iter(range(100))
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    seconds = in_turns(calls, 2, lambda: float(next(ticks)))  # type: ignore[arg-type]
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert seconds == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_operations_are_counted_by_hand(tmp_path: Path) -> None:
    from dataclasses import replace

    from engine.runners.base import ArraySpec, InputSpec

    bundle = small_bundle(tmp_path / "bundle", parts("sentinel-2"))
    spec = InputSpec(
        inputs=(ArraySpec(name="x", shape=(-1, 3)),),
        outputs=(ArraySpec(name="y", shape=(-1, 5)),),
    )
    model = replace(bundle.encoder_model("sentinel-2"), build=lambda: torch.nn.Linear(3, 5), spec=spec)
    assert flops_per_image(model) == 2 * 3 * 5
