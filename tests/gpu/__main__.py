"""``make gpu-check``: plans, parity, GPU tests and measurements on this machine's GPU, and a report of all of it.

Needs torch, onnx, safetensors and, for its share, onnxruntime and TensorRT; none of the daemon's libraries.
Exit status: 0 TensorRT serves every family in some precision and all tests passed; 1 it does not, and the report says
why; 3 there is no GPU, and nothing was done.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from engine.bundle import ModelBundle, bundled
from engine.errors import RunnerUnavailable
from engine.runners.cuda import driver_version
from engine.runners.tensorrt import library
from tests.gpu.report import markdown
from tests.gpu.ways import forward_rates, matmul_rate, odeed_rates, open_ways

NO_GPU = 3


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("var/gpu-check"))
    parser.add_argument("--bundle", default="base", help="a shipped bundle's name, or a folder")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--families", nargs="+", default=[], help="all, where none is named")
    parser.add_argument("--no-tests", action="store_true", help="leave pytest out")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: try the check itself")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print(f"gpu-check: torch {torch.__version__} sees no CUDA device here; nothing was built, tested or measured.")
        return NO_GPU
    bundle = ModelBundle.load(Path(chosen.bundle) if "/" in chosen.bundle else bundled(chosen.bundle))
    report: dict[str, Any] = {"machine": machine(bundle, chosen.device), "opened": [], "forward": [], "odeed": []}
    side = 4096 if chosen.device == "cuda" else 512
    for dtype in (torch.float32, torch.float16, torch.bfloat16) if chosen.device == "cuda" else (torch.float32,):
        rate = matmul_rate(chosen.device, dtype, side, time.perf_counter)
        report["machine"][f"matrix product, {str(dtype).removeprefix('torch.')}, {side} x {side}, FLOP/s"] = round(rate)
    for family in chosen.families or sorted(bundle.families):
        with ExitStack() as stack:
            print(f"{family}: opening; plans are built the first time, which takes minutes …", flush=True)
            opened, rows = open_ways(
                bundle, family, chosen.device, batch=max(chosen.batches), cache=chosen.out / "cache", stack=stack
            )
            report["opened"] += rows
            print(f"{family}: measuring …", flush=True)
            given = (bundle, family, opened)
            report["forward"] += forward_rates(*given, chosen.batches, chosen.rounds, time.perf_counter)
            report["odeed"] += odeed_rates(*given, max(chosen.batches), chosen.rounds, time.perf_counter)
    report["tests"] = {"ran": False, "why": "left out"} if chosen.no_tests else run_tests()
    report["passed"] = verdict(report)
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (chosen.out / "report.md").write_text(markdown(report), encoding="utf-8")
    print(markdown(report))
    print(f"written to {chosen.out / 'report.json'} and {chosen.out / 'report.md'}")
    return 0 if report["passed"] else 1


def machine(bundle: ModelBundle, device: str) -> dict[str, Any]:
    """What the figures hold for."""
    facts: dict[str, Any] = {
        "command": "make gpu-check",
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "software": f"Python {platform.python_version()}, torch {torch.__version__}",
        "model": f"{bundle.name} {bundle.model_id}",
        "device": "cpu: no GPU figure" if device == "cpu" else torch.cuda.get_device_name(),
    }
    if device == "cuda":
        facts["compute capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
        facts["driver"] = driver_version()
    try:
        facts["TensorRT"] = f"{library().__version__}, as {library().__name__}"
    except RunnerUnavailable as error:
        facts["TensorRT"] = f"none: {error}"
    return facts


def run_tests() -> dict[str, Any]:
    """The GPU tests by pytest, without the suite's own settings: they name plugins that this machine may lack."""
    if find_spec("pytest") is None:
        return {"ran": False, "why": "pytest is not installed"}
    command = ["-m", "pytest", "--noconftest", "-c", "/dev/null", "--rootdir", ".", "-q", "-rs", "tests/gpu"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    return {"ran": True, "passed": done.returncode == 0, "output": done.stdout[-8000:]}


def verdict(report: dict[str, Any]) -> bool:
    """Whether TensorRT serves every family in some precision, and no test failed."""
    families = {row["family"] for row in report["opened"]}
    served = {row["family"] for row in report["opened"] if row["way"].startswith("tensorrt") and row.get("passed")}
    return families == served and report["tests"].get("passed", True)


if __name__ == "__main__":
    sys.exit(main())
