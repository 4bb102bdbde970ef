"""Encoders judged on points whose neighbours, ranks and probabilities can be counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.optimize import brentq

from engine.vit import VisionTransformer, VitConfig
from training.errors import RunInvalid
from training.evaluate.encoders.checks import neighbour_accuracy, recall_at_1
from training.evaluate.encoders.knn import vote
from training.evaluate.encoders.linear import Logistic, choosing_part, probe
from training.evaluate.encoders.resampling import drawn_means, stratum_weights, unit_weights
from training.evaluate.encoders.retrieval import PairTiles, Recall, ranks, turned_round
from training.evaluate.encoders.retrieval_table import judge_pairs, ranks_of
from training.evaluate.encoders.subjects import (
    Subject,
    embedding,
    mean_colour,
    of_run,
    plain_pixels,
    random_weights,
    read_heads,
)
from training.running.runfolder import write_run


def directions(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_neighbours_vote() -> None:
    train = directions(0, 10, 20, 90, 100, 80)
    labels = ["east"] * 3 + ["north"] * 3
    assert neighbour_accuracy(train, labels, directions(5, 95), ["east", "north"], k=3) == 1.0
    assert neighbour_accuracy(train, labels, directions(5, 95), ["east", "east"], k=3) == 0.5


def test_a_tie_goes_to_the_nearer_label() -> None:
    assert neighbour_accuracy(directions(0, 90), ["east", "north"], directions(60), ["north"], k=2) == 1.0


def test_a_majority_outweighs_a_nearer_neighbour() -> None:
    train = directions(44, 0, 0)
    assert neighbour_accuracy(train, ["mid", "east", "east"], directions(45), ["east"], k=3) == 1.0


def test_recall_counts_own_partners() -> None:
    gallery = directions(0, 90, 180)
    assert recall_at_1(directions(10, 100, 350), gallery) == pytest.approx(2 / 3)
    assert recall_at_1(3 * gallery, gallery) == 1.0


def test_plain_pixels_forget_brightness_and_keep_pattern() -> None:
    tiles = np.random.default_rng(0).random((2, 3, 16, 16)).astype(np.float32)
    brighter = tiles + 0.25
    np.testing.assert_allclose(plain_pixels(tiles), plain_pixels(brighter), atol=1e-5)
    assert plain_pixels(tiles).shape == (2, 3 * 64)
    block = tiles[0, 1, 2:4, 4:6].mean() - tiles[0].mean()
    assert plain_pixels(tiles)[0, 64 + 8 + 2] == pytest.approx(block, abs=1e-5)


def test_ranks_count_better_and_equal_rows() -> None:
    gallery = directions(0, 90, 180)
    queries = directions(10, 80, 5)  # the third is nearest to row 0, then 1, and its own comes last
    assert ranks(queries, gallery).tolist() == [1, 1, 3]
    assert ranks(gallery * 3, gallery).tolist() == [1, 1, 1]


def test_ties_count_against_the_query() -> None:
    same = np.tile(np.array([[0.3, 0.1, 0.7]], dtype=np.float32), (5, 1))
    assert ranks(same, same).tolist() == [5] * 5
    assert recall_at_1(same, same) == 0.0
    twins = directions(0, 0, 90)
    assert ranks(twins, twins).tolist() == [2, 2, 1]


def test_ranks_equal_a_looped_reference() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30, 6)).astype(np.float32)
    expected = []
    for i in range(30):
        cosines = [a[i] @ b[j] / np.linalg.norm(a[i]) / np.linalg.norm(b[j]) for j in range(30)]
        expected.append(1 + sum(cosine > cosines[i] for j, cosine in enumerate(cosines) if j != i))
    assert ranks(a, b).tolist() == expected


def test_recall_by_hand() -> None:
    found = np.array([1, 1, 3, 6, 10, 2, 1, 7, 5, 8])
    weights = np.ones((1, 10))
    recall = Recall.of(found, weights, 2)
    assert (recall.recall_at_1, recall.recall_at_5, recall.median_rank) == (0.3, 0.6, 4.0)
    assert (recall.low, recall.high, recall.gallery) == (0.3, 0.3, 10)
    assert recall.times_chance == pytest.approx(3.0)
    chance = Recall.by_chance(10, 2)
    assert (chance.recall_at_1, chance.recall_at_5, chance.median_rank) == (0.1, 0.5, 5.5)


def test_a_draw_of_events_takes_all_its_tiles() -> None:
    units = np.array([0, 0, 0, 1])
    values = np.array([1.0, 1.0, 0.0, 0.0])
    weights = unit_weights(np.random.default_rng(0), units, 200)
    assert (weights[:, 0] == weights[:, 2]).all()
    # Of two events: both once (1/2), the first twice (2/3), or the second twice (0).
    assert set(np.round(drawn_means(values, weights), 6)) == {0.5, round(2 / 3, 6), 0.0}


def test_draws_within_strata_keep_their_sizes() -> None:
    strata = np.array([0, 1, 0, 1, 1])
    weights = stratum_weights(np.random.default_rng(0), strata, 50)
    assert (weights[:, strata == 0].sum(axis=1) == 2).all()
    assert (weights[:, strata == 1].sum(axis=1) == 3).all()


def test_votes_equal_a_looped_reference() -> None:
    rng = np.random.default_rng(1)
    train, test = rng.normal(size=(60, 5)).astype(np.float32), rng.normal(size=(20, 5)).astype(np.float32)
    codes = rng.integers(0, 4, 60)
    for row, found in zip(test, vote(train, codes, test, 7), strict=True):
        cosines = train @ row / np.linalg.norm(train, axis=1) / np.linalg.norm(row)
        nearest = np.argsort(-cosines)[:7]
        tally = [(int((codes[nearest] == code).sum()), cosines[nearest][codes[nearest] == code].sum(), code)
                 for code in range(4)]  # fmt: skip
        assert found == max(tally)[2]


def test_logistic_regression_of_one_feature_solves_its_equation() -> None:
    # x = -1 or 1, equally often; of x = 1 three quarters are class 1, of x = -1 one quarter.
    x = np.repeat([-1.0, 1.0], 8)[:, None]
    codes = np.array([1] * 2 + [0] * 6 + [1] * 6 + [0] * 2)
    l2 = 0.05
    # By symmetry W = (-w, w) and no bias: d/dw [ln(1 + e^(-2w)) * 3/4 + ln(1 + e^(2w)) / 4 + l2 w²] = 0.
    w = brentq(lambda v: -1.5 / (1 + np.exp(2 * v)) + 0.5 / (1 + np.exp(-2 * v)) + 2 * l2 * v, 0, 5)
    fitted = Logistic.fit(x, codes, 2, l2)
    np.testing.assert_allclose(fitted.weight, [[-w, w]], atol=1e-4)
    assert fitted.predict(np.array([[-1.0], [1.0]])).tolist() == [0, 1]


def test_features_that_do_not_vary_do_no_harm() -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(40) % 2
    x = np.stack([codes + 0.1 * rng.normal(size=40), np.full(40, 7.0)], axis=1)
    fitted = probe(x, codes, 2)
    assert (fitted.predict(x) == codes).all()
    assert fitted.scale[1] == 1.0


def test_the_part_that_chooses_is_every_fourth_of_a_class() -> None:
    codes = np.array([0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0])
    assert np.flatnonzero(choosing_part(codes)).tolist() == [3, 7, 11]
    assert np.flatnonzero(choosing_part(np.array([0, 0, 1, 1]))).tolist() == [1, 3]


def test_mean_colour_orders_by_brightness_too() -> None:
    tiles = np.ones((3, 3, 8, 8), dtype=np.float32) * np.array([0.2, 0.25, 0.8], np.float32)[:, None, None, None]
    rows = mean_colour(tiles)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert rows[0] @ rows[1] > rows[0] @ rows[2]


SMALL = VitConfig(img_size=16, patch_size=8, dim=12, depth=1, heads=2)


def test_random_weights_see_the_standardised_tile() -> None:
    tiles = np.random.default_rng(0).random((6, 3, 16, 16)).astype(np.float32)
    seen = torch.from_numpy(tiles * 2 - 1)
    standard = (seen - seen.mean(dim=(0, 2, 3), keepdim=True)) / seen.std(dim=(0, 2, 3), keepdim=True, correction=0)
    subject = random_weights(SMALL, 3, tiles)
    torch.manual_seed(3)
    with torch.inference_mode():
        cls, _ = VisionTransformer.from_config(SMALL).eval()(standard)
    found = subject.embed(tiles, "aerial", ("cls",))["cls"]
    np.testing.assert_allclose(found, torch.nn.functional.normalize(cls).numpy(), atol=1e-5)
    assert random_weights(SMALL, 3, tiles).embed(tiles, "x", ("cls",))["cls"].tobytes() == found.tobytes()


def test_places_are_the_mean_of_the_cosines_of_tokens() -> None:
    torch.manual_seed(0)
    vit = VisionTransformer.from_config(SMALL).eval()
    tiles = np.random.default_rng(0).random((2, 3, 16, 16)).astype(np.float32)
    rows = embedding(lambda _: vit)(tiles, "aerial", ("places", "tokens"))
    with torch.inference_mode():
        tokens = torch.nn.functional.normalize(vit(torch.from_numpy(tiles * 2 - 1))[1], dim=-1)
    assert rows["places"][0] @ rows["places"][1] == pytest.approx(float((tokens[0] * tokens[1]).sum(-1).mean()), 1e-5)
    assert rows["tokens"].shape == (2, 12)


@pytest.mark.parametrize("prefix", ["alignment.heads.", "projections."])
def test_heads_are_read_by_sensor(prefix: str, tmp_path: Path) -> None:
    from training.align.msad import ProjectionHead

    torch.manual_seed(0)
    head = ProjectionHead(12, 20)
    state = {f"{prefix}sentinel-1.{name}": value for name, value in head.state_dict().items()}
    save_file({**state, "student.norm.bias": torch.zeros(12)}, tmp_path / "checkpoint.safetensors")
    heads = read_heads(tmp_path / "checkpoint.safetensors", 12)
    x = torch.rand(2, 12)
    torch.testing.assert_close(heads["sentinel-1"](x), head(x))
    assert list(heads) == ["sentinel-1"]
    save_file({"student.norm.bias": torch.zeros(12)}, tmp_path / "none.safetensors")
    with pytest.raises(RunInvalid, match="no projection heads"):
        read_heads(tmp_path / "none.safetensors", 12)
    with pytest.raises(RunInvalid, match="is not there"):
        read_heads(tmp_path / "nowhere.safetensors", 12)


def pairs(first: np.ndarray, second: np.ndarray) -> PairTiles:
    return PairTiles(
        task="test",
        sensors=("sentinel-1", "sentinel-2-later"),
        first=first,
        second=second,
        units=np.arange(len(first)) % 2,
        images=np.arange(len(first)),
        unit_names=("A", "B"),
    )


def test_both_directions_and_chance_are_told() -> None:
    rng = np.random.default_rng(0)
    tiles = rng.random((8, 3, 16, 16)).astype(np.float32)
    seen: list[str] = []

    def embed(x, sensor, ways):
        seen.append(sensor)
        return {"it": plain_pixels(x)}

    same = Subject(name="same", kind="control", embed=embed)
    rows = judge_pairs(pairs(tiles, tiles + 0.05), lambda _, __: [same], 20, 0, lambda *_: None)
    assert [(row["direction"], row["subject"], row["recall_at_1"]) for row in rows] == [
        ("sentinel-1 → sentinel-2-later", "same", 1.0),
        ("sentinel-1 → sentinel-2-later", "chance", 0.125),
        ("sentinel-2-later → sentinel-1", "same", 1.0),
        ("sentinel-2-later → sentinel-1", "chance", 0.125),
    ]
    assert seen == ["sentinel-1", "sentinel-2-later"]
    assert (rows[0]["low"], rows[0]["high"], rows[0]["units"], rows[0]["gallery"]) == (1.0, 1.0, 2, 8)


def test_a_subject_without_the_head_of_a_sensor_is_left_out() -> None:
    tiles = np.random.default_rng(0).random((4, 3, 16, 16)).astype(np.float32)
    subject = Subject(name="x", kind="heads", embed=lambda *_: {}, sensors=frozenset({"sentinel-1"}))
    assert ranks_of(subject, pairs(tiles, tiles)) == {}
    assert turned_round(pairs(tiles, tiles)).sensors == ("sentinel-2-later", "sentinel-1")


def run_of(path: Path, seed: int, *sensors: str) -> VisionTransformer:
    """A finished run whose sensors have patch embeddings of their own; the trunk as it is served."""
    torch.manual_seed(seed)
    vit = VisionTransformer.from_config(SMALL)
    own = {}
    for number, sensor in enumerate(sensors):
        own[f"patch_embeds.{sensor}.weight"] = vit.patch_embed.weight.detach() * (number + 1)
        own[f"patch_embeds.{sensor}.bias"] = vit.patch_embed.bias.detach() + number
    preset = {"name": "x", "msad": "off", "vit": SMALL.to_dict(), "held_out_events": ["B"]}
    write_run(path, {"kind": "xstars", "preset": preset, "seed": seed}, {**vit.state_dict(), **own})
    vit.load_state_dict({name: value.half().float() for name, value in vit.state_dict().items()})
    return vit.eval()


def test_a_continued_run_keeps_the_start_s_embedding_of_a_sensor_it_was_not_shown(tmp_path: Path) -> None:
    start, adapted = run_of(tmp_path / "start", 0, "aerial"), run_of(tmp_path / "run", 1, "sentinel-2")
    tiles = np.random.default_rng(0).random((2, 3, 16, 16)).astype(np.float32)
    subject = of_run(tmp_path / "run", start=tmp_path / "start")
    with torch.inference_mode():
        expected, _ = adapted.encode(start.patch_embed(torch.from_numpy(tiles * 2 - 1)))
    found = subject.embed(tiles, "aerial-coarse", ("cls",))["cls"]
    np.testing.assert_allclose(found, torch.nn.functional.normalize(expected).numpy(), atol=1e-5)
    assert subject.takes("aerial-coarse", "sentinel-2-later")
    alone = of_run(tmp_path / "run")
    assert alone.takes("sentinel-2")
    assert not alone.takes("aerial")
