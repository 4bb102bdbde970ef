"""A model as a TensorRT runner: graph, precision, plan from the cache or a build, lanes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

import onnx

from engine.errors import RunnerUnavailable
from engine.runners.base import RunnableModel
from engine.runners.build_watch import BuildWatch
from engine.runners.device import BatchProfile, Plan, PlanMaker, Queue
from engine.runners.device_runner import DeviceRunner
from engine.runners.onnx_graph import export_graph, graph_path, keep_graph
from engine.runners.plan_cache import PlanCache, PlanKey
from engine.runners.precision import Precision, lower_precision

WAIT_S = 0.5
"""Pause between two looks at a plan that another process builds."""

log = logging.getLogger(__name__)


def open_plan(
    model: RunnableModel,
    maker: PlanMaker,
    *,
    precision: Precision,
    largest: int,
    cache_dir: Path,
    make_queue: Callable[[], Queue],
    probe: Callable[[], None],
    watch: BuildWatch,
    graphs: bool = True,
    release: Callable[[], None] = lambda: None,
    on_halving: Callable[[], None] = lambda: None,
) -> DeviceRunner:
    """Open a model on a plan; the first time, and after any change of its key, that takes minutes.

    Args:
        model: what to run.
        maker: builds and loads plans.
        precision: of what is not an island.
        largest: rows of the largest batch.
        cache_dir: where graphs and plans are kept.
        make_queue: makes a queue for each batch in flight.
        probe: waits for the device.
        watch: told of a build, and asked whether to go on.
        graphs: whether work is recorded and replayed as one call.
        release: gives the device's free memory back.
        on_halving: called when memory was full.

    Raises:
        BuildStopped: the watch said so.
        RunnerUnavailable: the model cannot be built here, or plans cannot be kept safely.
    """
    cache = PlanCache(cache_dir)
    profile = BatchProfile(largest=largest)
    watch.begin(f"preparing {model.name}")
    try:
        graph = lower_precision(_graph(model, cache_dir), precision, model.float32)
        watch.check()
        device = maker.identity()
        key = PlanKey(onnx_sha256=sha256(graph).hexdigest(), device=device, precision=precision, profile=profile.label)

        def build() -> bytes:
            log.info("Building a plan, which takes minutes: %s, %s, on %s", model.name, precision, device.name)
            watch.begin(f"building {model.name} in {precision}")
            plan, timing = maker.build(graph, model.spec, profile, cache.timing(device), watch)
            cache.keep_timing(device, timing)
            return plan

        plan = _load(cache, key, build, maker, watch)
    finally:
        watch.begin("")
    return DeviceRunner(
        f"tensorrt/{precision}",
        model.spec,
        plan,
        make_queue=make_queue,
        probe=probe,
        largest=largest,
        graphs=graphs,
        release=release,
        on_halving=on_halving,
    )


def _load(cache: PlanCache, key: PlanKey, build: Callable[[], bytes], maker: PlanMaker, watch: BuildWatch) -> Plan:
    wait = partial(_wait, watch)
    kept = cache.get(key, build, wait=wait)
    try:
        return maker.load(kept.content)
    except RunnerUnavailable as error:
        if kept.built:
            raise
        # Signed by us, for this very device, and still refused: whatever changed is not in the key.
        log.warning("A plan is refused by the device and built anew: %s", error)
        cache.remove(key)
        return maker.load(cache.get(key, build, wait=wait).content)


def _wait(watch: BuildWatch) -> None:
    watch.check()
    threading.Event().wait(WAIT_S)


def _graph(model: RunnableModel, cache_dir: Path) -> bytes:
    """The FP32 graph that ONNX Runtime would run too, from the cache or exported."""
    path = graph_path(model, cache_dir)
    if path.is_file():
        try:
            graph = path.read_bytes()
            onnx.checker.check_model(onnx.load_from_string(graph))
            return graph
        except Exception as error:
            # protobuf and the checker raise a class per failure; whichever it is, a damaged file is made anew.
            log.warning("A cached graph cannot be read and is exported again: %s (%s)", path, error)
    graph = export_graph(model, model.build())
    keep_graph(graph, path)
    return graph
