from __future__ import annotations

import numpy as np
import pytest

from engine.runners.base import Arrays, ArraySpec, InputSpec, Runner
from training.evaluate.folds import block_of, join
from training.evaluate.memo import MemoRunner, Savings
from training.evaluate.ood import Outcome
from training.evaluate.protocol import Ground, Scores


class Doubling(Runner):
    """Counts how often it is asked, and takes a second each time."""

    def __init__(self, clock: list[float]) -> None:
        spec = InputSpec(inputs=(ArraySpec(name="x", shape=(-1, 2)),), outputs=(ArraySpec(name="y", shape=(-1, 2)),))
        super().__init__("doubling", spec)
        self.asked = 0
        self._clock = clock

    def _compute(self, feeds: Arrays) -> Arrays:
        self.asked += 1
        self._clock[0] += 1.0
        return {"y": 2 * feeds["x"]}

    def _release(self) -> None:
        self.asked = -1


def test_the_same_question_is_asked_once_and_paid_for_each_time() -> None:
    clock = [0.0]
    runner = Doubling(clock)
    savings = Savings(lambda: clock[0])
    memo = MemoRunner(runner, savings)
    x = np.ones((3, 2), dtype=np.float32)
    for asked in range(1, 4):
        before = savings.clock()
        answer = memo.run({"x": x})["y"]
        assert savings.clock() - before == 1.0, asked
        np.testing.assert_array_equal(answer, 2 * x)
        answer[:] = 0  # The caller's own.
    assert runner.asked == 1
    memo.run({"x": x + 1})
    assert runner.asked == 2


def test_a_memo_forgets_the_oldest_answer_first() -> None:
    runner = Doubling([0.0])
    memo = MemoRunner(runner, Savings(lambda: 0.0), capacity=2)
    x = [np.full((1, 2), value, dtype=np.float32) for value in range(3)]
    for feeds in (x[0], x[1], x[0], x[2], x[0], x[1]):
        memo.run({"x": feeds})
    assert runner.asked == 4
    memo.close()
    assert runner.asked == 4, "the runner behind it stays open"


def outcome(event: str, images: int, tiles: int) -> Outcome:
    rng = np.random.default_rng(len(event) + images)
    return Outcome(
        ground=Ground(
            events=(event,),
            images=tuple(f"{event}{i}" for i in range(images)),
            event=np.zeros(tiles, np.int64),
            image=np.arange(tiles) % images,
            share=rng.random(tiles).astype(np.float32),
            pixel_flooded=rng.random((tiles, 2)) < 0.5,
            pixel_known=np.ones((tiles, 2), np.bool_),
        ),
        scores={
            "s": Scores(
                now=rng.random(tiles).astype(np.float32),
                earlier=rng.random(tiles).astype(np.float32),
                pixels=None,
                ms_per_tile=float(tiles),
            )
        },
        common=np.ones(tiles, np.bool_),
        examples=(),
    )


def test_outcomes_of_events_are_joined_with_their_own_numbers() -> None:
    a, b = outcome("A", 2, 5), outcome("B", 3, 7)
    both = join([a, b])
    assert both.ground.events == ("A", "B")
    assert [both.ground.images[i] for i in both.ground.image] == [
        *(a.ground.images[i] for i in a.ground.image),
        *(b.ground.images[i] for i in b.ground.image),
    ]
    assert both.ground.event.tolist() == [0] * 5 + [1] * 7
    np.testing.assert_array_equal(both.scores["s"].now, np.concatenate([a.scores["s"].now, b.scores["s"].now]))
    assert both.scores["s"].ms_per_tile == pytest.approx((5 * 5 + 7 * 7) / 12)


def test_blocks_are_named_by_the_last_part() -> None:
    assert block_of("OMBRIA_block_C") == "C"
    assert block_of("C") == "C"
