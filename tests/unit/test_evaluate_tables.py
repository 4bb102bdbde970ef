"""Protocols, rows and comparisons on scores whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InputMismatch
from training.evaluate.choice import choose_examples, choose_tiles
from training.evaluate.comparison import JOINT_STRATA, differences, knowledge
from training.evaluate.metrics import auroc, joint_strata, z_sum
from training.evaluate.ood import Kind, Outcome, Subject
from training.evaluate.protocol import Ground, Scores, sides_of
from training.evaluate.report import sentence
from training.evaluate.table import Tables

NAN = float("nan")


def ground_of(share: list[float], event: list[int], image: list[int] | None = None, pixels: int = 2) -> Ground:
    """Tiles of which the first pixel is flooded if any is, and the last is unknown."""
    wet = np.zeros((len(share), pixels), bool)
    wet[:, 0] = np.asarray(share) > 0
    known = np.ones_like(wet)
    known[:, -1] = False
    return Ground(
        events=tuple("ABCDEFGH"[: max(event) + 1]),
        images=tuple(str(i) for i in range(len(share))),
        event=np.asarray(event),
        image=np.asarray(image or range(len(share))),
        share=np.asarray(share, np.float32),
        pixel_flooded=wet,
        pixel_known=known,
    )


def scores_of(now: list[float], earlier: list[float] | None = None, pixels: np.ndarray | None = None) -> Scores:
    return Scores(
        now=np.asarray(now, np.float32),
        earlier=np.asarray(earlier or [NAN] * len(now), np.float32),
        pixels=pixels,
        ms_per_tile=1.0,
    )


def subject(name: str, kind: Kind = "unpaired", **options: bool) -> Subject:
    call = {"paired": lambda now, earlier: (now, None)} if kind == "paired" else {"unpaired": lambda now: (now, None)}
    return Subject(name=name, kind=kind, **call, **options)  # type: ignore[arg-type]


def tables_of(ground: Ground, scored: dict[Subject | str, Scores], common: np.ndarray | None = None) -> Tables:
    subjects = [each if isinstance(each, Subject) else subject(each) for each in scored]
    outcome = Outcome(
        ground=ground,
        scores={each.name: scores for each, scores in zip(subjects, scored.values(), strict=True)},
        common=np.ones(len(ground), bool) if common is None else common,
        examples=(),
    )
    return Tables.of(subjects, outcome, draws=200, seed=0)


def test_the_tile_protocols_take_the_tiles_that_they_name() -> None:
    ground = ground_of([0.25, 1.0, 0.24, 0.0, 0.0], [0, 0, 0, 1, 1])
    scores = scores_of([5, 4, 99, 1, 2], [7, 8, NAN, NAN, NAN])
    every = np.ones(5, bool)
    dry = sides_of("flooded-vs-dry", ground, scores, every)
    assert (dry.positive.tolist(), dry.negative.tolist()) == ([5, 4], [1, 2])
    assert (dry.positive_event.tolist(), dry.negative_event.tolist()) == ([0, 0], [1, 1])
    before = sides_of("after-vs-before", ground, scores, every)
    assert (before.positive.tolist(), before.negative.tolist()) == ([5, 4], [7, 8])
    assert before.negative_image.tolist() == [0, 1]


def test_the_pixel_protocol_takes_known_pixels_of_every_tile() -> None:
    ground = ground_of([0.1, 0.0], [0, 1], pixels=3)
    maps = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    found = sides_of("pixel", ground, scores_of([0, 0], pixels=maps), np.ones(2, bool))
    assert (found.positive.tolist(), found.negative.tolist()) == ([1], [2, 4, 5])
    assert found.negative_event.tolist() == [0, 1, 1]
    none = sides_of("pixel", ground, scores_of([0, 0]), np.zeros(2, bool))
    assert not none.complete


def test_a_row_holds_known_figures() -> None:
    # Image 0 is perfect, image 1 wrong; over all, 3 of 4 pairs are won.
    ground = ground_of([1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1])
    rows = tables_of(ground, {"s": scores_of([9, 1, 2, 3], [0, NAN, 9, NAN])}).rows()
    first, second = rows
    assert (first.scorer, first.protocol, first.n_pos, first.n_neg) == ("s", "flooded-vs-dry", 2, 2)
    assert first.auroc == 0.75
    assert first.auroc_within == 0.5
    assert first.fpr95 == 0.5
    assert first.aupr == pytest.approx((1 + 2 / 3) / 2, abs=1e-5)
    assert (first.auroc_low, first.auroc_high) == (0.0, 1.0)
    assert second.protocol == "after-vs-before"
    assert second.auroc == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    assert (second.n_pos, second.n_neg) == (2, 2)


def test_what_is_undefined_is_none_and_never_nan() -> None:
    symmetric = subject("same", "paired", symmetric=True, pixels=True)
    no_dry = tables_of(ground_of([1, 1], [0, 0]), {symmetric: scores_of([1, 2]), "s": scores_of([1, 2], [3, 4])})
    rows = {(row.scorer, row.protocol): row for row in no_dry.rows()}
    for key in (("same", "flooded-vs-dry"), ("same", "after-vs-before"), ("same", "pixel"), ("s", "flooded-vs-dry")):
        row = rows[key]
        assert (row.auroc, row.auroc_low, row.auroc_high, row.auroc_within, row.aupr, row.fpr95) == (None,) * 6, key
    # A symmetric score says nothing of before and after, though the tiles are there.
    assert rows["same", "after-vs-before"].n_pos == 2
    # One event alone has a figure and no interval.
    assert rows["s", "after-vs-before"].auroc == 0.0
    assert rows["s", "after-vs-before"].auroc_low is None
    assert differences(no_dry) == []
    assert no_dry.per_event()[0].auroc == 0.0


def test_the_difference_is_to_the_best_control_on_the_tiles_that_both_ran_on() -> None:
    ground = ground_of([1, 0] * 4, [0, 0, 1, 1, 2, 2, 3, 3])
    scored: dict[Subject | str, Scores] = {
        subject("weak", "control"): scores_of([0, 1] * 4),
        subject("good", "control"): scores_of([1, 0, 1, 0, 0, 1, 0, 0]),
        subject("shipped"): scores_of([2, 0, 2, 0, 2, 0, NAN, NAN]),
    }
    found = [each for each in differences(tables_of(ground, scored)) if each.protocol == "flooded-vs-dry"]
    assert [each.against for each in found] == ["one look", "any"]
    assert (found[0].control, found[0].n_pos, found[0].events) == ("good", 3, 3)
    assert found[0].auroc == 1.0
    good = auroc(np.array([1, 1, 0]), np.array([0, 0, 1]))
    assert found[0].control_auroc == pytest.approx(good, abs=1e-5)
    assert found[0].difference == pytest.approx(1 - good, abs=1e-5)
    # Drawn from events 0 and 1 alone there is no difference.
    assert found[0].low == 0.0
    assert found[0].excludes_zero is False
    assert "includes zero" in sentence(found[0])


def test_paired_controls_stand_against_paired_scores_only_where_asked() -> None:
    ground = ground_of([1, 0] * 3, [0, 0, 1, 1, 2, 2])
    perfect, half = scores_of([1, 0] * 3), scores_of([0.0] * 6)
    change = Subject(name="change", kind="control", paired=lambda now, earlier: (now, None))
    found = differences(tables_of(ground, {subject("one", "control"): half, change: perfect, subject("s"): perfect}))
    assert {each.against: (each.control, each.difference) for each in found} == {
        "one look": ("one", 0.5),
        "any": ("change", 0.0),
    }
    assert found[0].excludes_zero is True


def test_knowledge_is_what_a_score_orders_where_the_control_is_level() -> None:
    rng = np.random.default_rng(0)
    share, event = [1.0, 0.0] * 100, [i % 4 for i in range(200)]
    control = subject("energy", "control", reference=True)
    label, noise = np.asarray(share), rng.normal(size=200)
    other = noise + label
    scored: dict[Subject | str, Scores] = {
        control: scores_of(list(other)),
        subject("copy"): scores_of(list(3 * other + 1)),
        subject("oracle"): scores_of(list(label)),
    }
    copy, oracle = (
        each for each in knowledge(tables_of(ground_of(share, event), scored)) if each.protocol == "flooded-vs-dry"
    )
    # A copy of the control adds nothing: the sum of z-scores orders as it does.
    assert copy.added == 0.0
    assert copy.fused_auroc == copy.reference_auroc
    assert copy.within_strata is not None
    assert copy.within_strata < 0.65
    assert oracle.within_strata == 1.0
    now = np.asarray(list(other), np.float32)
    fused = z_sum(np.concatenate([label[::2], label[1::2]]), np.concatenate([now[::2], now[1::2]]))
    assert oracle.fused_auroc == pytest.approx(auroc(fused[:100], fused[100:]), abs=1e-5)
    assert oracle.added_low is not None
    assert oracle.added_low > 0


def test_knowledge_beyond_all_references_together_equals_a_loop_over_pairs() -> None:
    rng = np.random.default_rng(3)
    share, event = [1.0, 0.0] * 30, [i % 4 for i in range(60)]
    score, one, two = rng.integers(0, 9, (3, 60)).astype(np.float64)
    scored: dict[Subject | str, Scores] = {
        subject("one", "control", reference=True): scores_of(list(one)),
        subject("two", "control", reference=True): scores_of(list(two)),
        subject("s"): scores_of(list(score)),
    }
    found = {
        each.beyond: each
        for each in knowledge(tables_of(ground_of(share, event), scored))
        if each.protocol == "flooded-vs-dry"
    }
    assert set(found) == {"one", "two", "one + two"}
    both = found["one + two"]
    order = np.concatenate([np.arange(0, 60, 2), np.arange(1, 60, 2)])  # positives first, as strata see them
    stratum = joint_strata([one[order], two[order]], JOINT_STRATA)
    own = score[order]
    won = pairs = 0.0
    for i in range(30):
        for j in range(30, 60):
            if stratum[i] == stratum[j]:
                pairs += 1
                won += 1.0 if own[i] > own[j] else 0.5 if own[i] == own[j] else 0.0
    assert both.within_strata == pytest.approx(won / pairs, abs=1e-5)
    assert both.within_share == pytest.approx(pairs / 900, abs=1e-4)
    alone, fused = z_sum(one[order], two[order]), z_sum(one[order], two[order], own)
    gain = auroc(fused[:30], fused[30:]) - auroc(alone[:30], alone[30:])
    assert both.added == pytest.approx(gain, abs=2e-5)


def test_logarithms_enter_fusions_where_a_subject_says_so() -> None:
    ground = ground_of([1, 0, 1, 0], [0, 0, 1, 1])
    control = subject("level", "control", reference=True)
    values = [1e4, 1e-4, 1e3, 1e2]
    level = scores_of([0.0, 1.0, 2.0, 1.0])
    plain = knowledge(tables_of(ground, {control: level, subject("s"): scores_of(values)}))
    logs = knowledge(tables_of(ground, {control: level, subject("s", logarithmic=True): scores_of(values)}))
    ordered = np.array([values[0], values[2], values[1], values[3]])
    levels = np.array([0.0, 2, 1, 1])
    for found, own in ((plain, ordered), (logs, np.log(ordered))):
        fused = z_sum(own, levels)
        assert found[0].fused_auroc == pytest.approx(auroc(fused[:2], fused[2:]), abs=1e-5)
    assert plain[0].fused_auroc != logs[0].fused_auroc


def test_common_rows_leave_out_what_not_all_ran_on() -> None:
    ground = ground_of([1, 0, 1, 0], [0, 0, 1, 1])
    common = np.array([True, True, False, False])
    tables = tables_of(ground, {"s": scores_of([1, 0, 0, 1])}, common)
    assert [row.auroc for row in tables.rows() if row.protocol == "flooded-vs-dry"] == [0.5]
    assert [row.auroc for row in tables.rows(common=True) if row.protocol == "flooded-vs-dry"] == [1.0]


@pytest.mark.parametrize("seed", range(3))
def test_chosen_tiles_keep_each_kinds_share_of_events(seed: int) -> None:
    rng = np.random.default_rng(seed)
    share = rng.choice([0.0, 0.1, 0.9], 900, p=[0.5, 0.2, 0.3])
    event = rng.choice(4, 900, p=[0.6, 0.3, 0.09, 0.01])
    ground = ground_of(list(share), list(event))
    chosen = choose_tiles(ground, 200, np.random.default_rng(0))
    assert len(chosen) == len(set(chosen)) == 200
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, choose_tiles(ground, 200, np.random.default_rng(0)))
    assert [int(which[chosen].sum()) for which in (ground.flooded, ground.dry)] == [80, 80]
    for which in (ground.flooded, ground.dry):
        have = np.bincount(event[chosen][which[chosen]], minlength=4)
        want = 80 * np.bincount(event[which], minlength=4) / which.sum()
        assert (np.abs(have - want) < 2).all()
        assert (have[np.bincount(event[which], minlength=4) > 0] >= 1).all()
    shown = choose_examples(ground, chosen, rng)
    assert set(shown) <= set(chosen)
    assert ground.flooded[shown].sum() == 4


def test_a_kind_that_is_rare_leaves_its_place_to_the_others() -> None:
    ground = ground_of([1.0] * 3 + [0.0] * 50 + [0.1] * 5, [0] * 58)
    chosen = choose_tiles(ground, 30, np.random.default_rng(0))
    assert len(chosen) == 30
    assert ground.flooded[chosen].sum() == 3
    assert len(choose_tiles(ground, 100, np.random.default_rng(0))) == 58


def test_a_subject_is_asked_in_one_way() -> None:
    with pytest.raises(InputMismatch, match="either"):
        Subject(name="none", kind="unpaired")
