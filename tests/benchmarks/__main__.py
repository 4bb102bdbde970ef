"""Measure, print, and write ``var/bench/stages.json`` and ``stages.md``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from daemon.demo.scenes import build_demo
from engine.bundle import ModelBundle, bundled
from tests.benchmarks.endings import end_scenes
from tests.benchmarks.pixels import BATCH, read_samples, score_samples
from tests.benchmarks.spans import markdown


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--tiles", type=int, default=16, help=f"tiles a round for the networks, up to {BATCH}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bundle", default="base", help="a shipped bundle's name, or a folder")
    parser.add_argument("--out", type=Path, default=Path("var/bench"))
    chosen = parser.parse_args()
    bundle = ModelBundle.load(Path(chosen.bundle) if "/" in chosen.bundle else bundled(chosen.bundle))
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    facts = machine(bundle, threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("simulating two scenes …", flush=True)
        place = build_demo(folder / "place", only=("flood", "aerial-before"))
        samples = read_samples(place, bundle, rounds=chosen.rounds)
        print("scoring, the runners in turns …", flush=True)
        scored, ratios, opening = score_samples(
            samples, bundle, tiles=chosen.tiles, rounds=chosen.rounds, threads=threads, cache=folder / "cache"
        )
        print("judging and storing …", flush=True)
        satellite = next(sample for sample in samples if sample.family == "sentinel-2")
        ended = end_scenes(satellite, place, bundle, folder, rounds=chosen.rounds)
    facts["seconds to open a family's networks the first time"] = ", ".join(f"{k}: {v}" for k, v in opening.items())
    facts["load average at the end"] = load()
    spans = [*(sample.read for sample in samples), *scored, *ended]
    chosen.out.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": facts,
        "stages": [span.to_dict() for span in spans],
        "ratios": [ratio.to_dict() for ratio in ratios],
    }
    (chosen.out / "stages.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    told = markdown(facts, spans, ratios)
    (chosen.out / "stages.md").write_text(told, encoding="utf-8")
    print(told)
    print(f"written to {chosen.out / 'stages.json'} and {chosen.out / 'stages.md'}")


def machine(bundle: ModelBundle, threads: int) -> dict[str, Any]:
    """What the figures hold for."""
    return {
        "command": "python -m tests.benchmarks",
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{cpu_name()}, {os.cpu_count()} cores, {threads} threads for the networks, no GPU used",
        "load average at the start": load(),
        "software": ", ".join(
            [f"Python {platform.python_version()}", *(f"{n} {version(n)}" for n in ("vigie", "torch", "onnxruntime"))]
        ),
        "model": f"{bundle.name} {bundle.model_id}",
        "data": "two simulated scenes, 64-px tiles; detect and store: random looks of their cells, 12 earlier each",
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def load() -> str:
    return ", ".join(f"{value:.1f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"


if __name__ == "__main__":
    main()
