"""DINO's loss, centre and moving averages against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from training.align.dino import DinoHead, DinoLoss, update_teacher
from training.running.schedules import cosine, warmup_cosine


def test_centre_is_the_moving_average_of_teacher_outputs() -> None:
    loss = DinoLoss(3, centre_momentum=0.9)
    constant = torch.tensor([[1.0, 2.0, 3.0]])
    for _ in range(5):
        loss.update_centre(constant[0])
    torch.testing.assert_close(loss.centre, constant[0] * (1 - 0.9**5))


def test_equal_outputs_cost_ln_k() -> None:
    k = 11
    flat = torch.zeros(4, k)
    loss = DinoLoss(k)([flat, flat, flat], [flat, flat], 0.04)
    assert loss.item() == pytest.approx(math.log(k), rel=1e-6)


def test_a_view_is_not_compared_with_itself() -> None:
    """One global view only: the teacher of it meets the local view alone."""
    k = 5
    sharp = torch.zeros(1, k)
    sharp[0, 2] = 1.0
    local = torch.zeros(1, k)
    loss = DinoLoss(k)([sharp, local], [sharp], 0.01)
    assert loss.item() == pytest.approx(math.log(k), rel=1e-5)


def test_a_centred_teacher_is_uniform() -> None:
    out = torch.tensor([[0.2, 0.7, -0.1]])
    loss = DinoLoss(3, student_temperature=1.0)
    loss.centre.copy_(out[0])
    student = torch.tensor([[1.0, 0.0, -1.0]])
    expected = -torch.log_softmax(student, dim=-1).mean()
    torch.testing.assert_close(loss([out, student], [out], 0.04), expected)


def test_no_gradient_flows_to_the_teacher() -> None:
    teacher = torch.randn(2, 4, requires_grad=True)
    student = torch.randn(2, 4, requires_grad=True)
    DinoLoss(4)([student, student], [teacher], 0.04).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_head_outputs_are_cosines() -> None:
    torch.manual_seed(0)
    head = DinoHead(8, hidden=16, bottleneck=4, prototypes=32)
    out = head(torch.randn(5, 8) * 100)
    assert out.shape == (5, 32)
    assert out.abs().max() <= 1 + 1e-6


def test_teacher_follows_by_momentum() -> None:
    slow, fast = torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        slow.weight.fill_(0.0)
        fast.weight.fill_(1.0)
    for _ in range(3):
        update_teacher(slow, fast, 0.75)
    torch.testing.assert_close(slow.weight, torch.full((1, 2), 1 - 0.75**3))


def test_warmup_rises_linearly_then_falls_by_a_half_cosine() -> None:
    values = [warmup_cosine(k, steps=11, warmup=4, peak=2.0, floor=0.5) for k in range(11)]
    assert values[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert values[4] == pytest.approx(2.0)
    assert values[7] == pytest.approx(1.25)
    assert values[10] == pytest.approx(0.5)
    assert values[4:] == sorted(values[4:], reverse=True)


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.996), (0.5, 0.998), (1.0, 1.0)])
def test_teacher_momentum_ends_at_one(progress: float, expected: float) -> None:
    assert cosine(progress, start=0.996, end=1.0) == pytest.approx(expected)
