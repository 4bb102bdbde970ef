"""The shared loop: resume, refusal, and the number of steps that fit in a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from training.errors import RunInvalid
from training.running.checkpoint import load_checkpoint, load_optimizer, optimizer_tensors, save_checkpoint
from training.running.loop import StepReport, measure_steps, run


class Counter:
    """A trainee whose state is the list of the steps it did."""

    def __init__(self, loss: float = 1.0) -> None:
        self.loss = loss
        self.done: list[int] = []

    def step(self, index: int, steps: int) -> StepReport:
        self.done.append(index)
        return StepReport(losses={"loss": self.loss}, lr=0.1, images=2)

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {"done": torch.tensor(self.done)}

    def load(self, tensors: Mapping[str, torch.Tensor], counters: Mapping[str, int]) -> None:
        self.done = [int(v) for v in tensors["done"]]
        assert len(self.done) == counters["step"]


class Ticks:
    """A clock that moves by one second a look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_a_run_that_was_cut_short_does_each_step_once(tmp_path: Path) -> None:
    def stop_at_three(progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    first = Counter()
    with pytest.raises(KeyboardInterrupt):
        run(first, tmp_path, 5, clock=Ticks(), show=stop_at_three, checkpoint_every_s=0.0)
    second = Counter()
    run(second, tmp_path, 5, clock=Ticks(), show=lambda progress: None)
    assert second.done == [0, 1, 2, 3, 4]


def test_another_number_of_steps_is_refused(tmp_path: Path) -> None:
    run(Counter(), tmp_path, 2, clock=Ticks(), show=lambda progress: None)
    with pytest.raises(RunInvalid, match="--steps 2"):
        run(Counter(), tmp_path, 3, clock=Ticks(), show=lambda progress: None)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunInvalid, match="learning rate"):
        run(Counter(loss=math.nan), tmp_path, 2, clock=Ticks(), show=lambda progress: None)
    assert load_checkpoint(tmp_path) is None


def test_steps_that_fit_in_a_time() -> None:
    """The clock ticks once between the two looks around 4 probes: 4 steps a second."""
    assert measure_steps(Counter, 0.5, Ticks(), probes=4) == 120


def test_optimizer_state_survives_the_round_trip(tmp_path: Path) -> None:
    def build() -> tuple[torch.nn.Linear, torch.optim.AdamW]:
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 2)
        return module, torch.optim.AdamW(module.parameters(), lr=0.1)

    def step(module: torch.nn.Linear, optimizer: torch.optim.AdamW) -> None:
        optimizer.zero_grad()
        module(torch.ones(1, 3)).pow(2).sum().backward()
        optimizer.step()

    module, optimizer = build()
    step(module, optimizer)
    save_checkpoint(tmp_path, {**module.state_dict(), **optimizer_tensors(optimizer)}, {"step": 1, "steps": 2})
    found = load_checkpoint(tmp_path)
    assert found is not None
    tensors, counters = found
    assert counters == {"step": 1, "steps": 2}
    other, other_optimizer = build()
    other.load_state_dict({name: tensors[name] for name in other.state_dict()})
    load_optimizer(other_optimizer, tensors)
    step(module, optimizer)
    step(other, other_optimizer)
    assert torch.equal(module.weight, other.weight)


def test_a_foreign_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RunInvalid, match="remove it"):
        load_checkpoint(tmp_path)
