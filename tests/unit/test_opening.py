"""Opening the networks: once for all who wait, told to readiness, ended by a stop."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from daemon.clock import ManualClock
from daemon.operate.metrics import Metrics
from daemon.score.opening import Opening
from engine.errors import BuildStopped, RunnerUnavailable
from engine.runners import Candidate
from engine.scoring import SceneScorer


class SlowScorer:
    """Builds in steps that the test allows, as a scorer with TensorRT would: under one lock."""

    def __init__(self, opening: Opening) -> None:
        self.watch = opening.watch
        self.opened: list[str] = []
        self.step = threading.Semaphore(0)
        self.stepped = threading.Semaphore(0)
        self._lock = threading.Lock()

    def open(self, family: str) -> None:
        with self._lock:
            if family in self.opened:
                return
            self.watch.begin(f"building {family} denoiser in fp16")
            self.watch.phase("Building Engine", None, 4)
            for number in range(4):
                assert self.step.acquire(timeout=20)
                going = self.watch.step("Building Engine", number)
                self.stepped.release()
                if not going:
                    self.watch.check()
            self.watch.begin("")
            self.opened.append(family)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def opening(registry: CollectorRegistry) -> Opening:
    return Opening(("aerial",), Metrics(registry, ManualClock(datetime(2026, 3, 1, tzinfo=UTC))))


def start(opening: Opening, scorer: SlowScorer, stop: threading.Event, beats: list[int], errors: list[Any]) -> Any:
    def work() -> None:
        try:
            opening.open(cast("SceneScorer", scorer), stop, lambda: beats.append(1))
        except BuildStopped as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_all_who_wait_beat_and_readiness_says_building(opening: Opening) -> None:
    scorer, stop, errors = SlowScorer(opening), threading.Event(), []
    beats: list[list[int]] = [[], []]
    with pytest.raises(RunnerUnavailable, match="being opened"):
        opening.check()
    threads = [start(opening, scorer, stop, each, errors) for each in beats]
    while len(opening._waiting) < 2 or any(not each for each in beats):  # both have come and beaten once
        threading.Event().wait(0.001)
    before = [len(each) for each in beats]
    scorer.step.release()
    assert scorer.stepped.acquire(timeout=20)
    assert [len(each) - had for each, had in zip(beats, before, strict=True)] == [1, 1]
    with pytest.raises(RunnerUnavailable, match="building aerial denoiser in fp16: Building Engine 25 %"):
        opening.check()
    scorer.step.release(3)
    for thread in threads:
        thread.join(20)
    assert scorer.opened == ["aerial"]
    assert not errors
    opening.check()


def test_a_stop_ends_the_build(opening: Opening) -> None:
    scorer, stop = SlowScorer(opening), threading.Event()
    errors: list[Any] = []
    thread = start(opening, scorer, stop, [], errors)
    scorer.step.release()
    assert scorer.stepped.acquire(timeout=20)
    stop.set()
    scorer.step.release()
    thread.join(20)
    assert len(errors) == 1
    assert scorer.opened == []
    with pytest.raises(RunnerUnavailable):
        opening.check()


def test_what_runs_and_what_does_not_is_counted(opening: Opening, registry: CollectorRegistry) -> None:
    chosen = Candidate(runner="tensorrt", device="cuda", precision="fp16")
    opening.events.on_fallback("aerial", chosen, "parity")
    opening.events.on_open("aerial", Candidate(runner="torch", device="cuda"))
    opening.events.on_halving()
    value = registry.get_sample_value
    assert value("vigie_runner_passed_over_total", {"runner": "tensorrt", "reason": "parity"}) == 1
    served = {"family": "aerial", "runner": "torch", "device": "cuda", "precision": "fp32"}
    assert value("vigie_runner_info", served) == 1
    assert value("vigie_batch_halvings_total") == 1
