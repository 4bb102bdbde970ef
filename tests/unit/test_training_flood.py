from __future__ import annotations

import numpy as np
import pytest

from training.data.heldout import FloodTiles
from training.errors import TrainingDataInvalid
from training.flood.fit import FloodExamples, FloodFit, examples_of, fit_flood_model, relit
from training.flood.logistic import fit_logistic

BANDS = ("swir16", "nir", "red")


def test_logistic_regression_finds_the_weights_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20000, 3)) * [1, 10, 0.1] + [0, 5, 1]
    odds = x @ [1.5, -0.1, 4.0] - 3.7
    positive = rng.random(len(x)) < 1 / (1 + np.exp(-odds))
    # Weights that undo the fit's equal classes leave the labels' own odds.
    weights = fit_logistic(x, positive, np.ones(len(x)), penalty=0.0)
    shift = np.log(positive.mean() / (1 - positive.mean()))
    np.testing.assert_allclose(weights, [1.5, -0.1, 4.0, -3.7 - shift], rtol=0.08, atol=0.05)


def test_the_penalty_is_on_standardised_features_so_units_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 2))
    positive = x[:, 0] + rng.normal(size=500) > 0
    unit = fit_logistic(x, positive, np.ones(500), penalty=0.1)
    milli = fit_logistic(x * 1000, positive, np.ones(500), penalty=0.1)
    np.testing.assert_allclose(milli[:2] * 1000, unit[:2], rtol=1e-3, atol=1e-5)
    assert abs(unit[0]) < abs(fit_logistic(x, positive, np.ones(500), penalty=0.0)[0])


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(TrainingDataInvalid, match="0 of 4"):
        fit_logistic(np.ones((4, 1)), np.zeros(4, np.bool_), np.ones(4), penalty=0.1)


def tiles(count: int, seed: int = 0) -> FloodTiles:
    """Fields, half of which turn to dark water; the sea in event B is there before and after and in no mask."""
    rng = np.random.default_rng(seed)
    field = np.asarray([0.3, 0.35, 0.12]).reshape(1, 3, 1, 1)
    water = np.asarray([0.03, 0.05, 0.09]).reshape(1, 3, 1, 1)
    noise_before, noise_after = np.exp(0.1 * rng.normal(size=(2, count, 3, 8, 8)))
    flooded = rng.random(count) < 0.4
    sea = ~flooded & (rng.random(count) < 0.3)
    wet_before = sea.reshape(-1, 1, 1, 1)
    wet_after = (sea | flooded).reshape(-1, 1, 1, 1)
    return FloodTiles(
        before=(np.where(wet_before, water, field) * noise_before).astype(np.float32),
        after=(np.where(wet_after, water, field) * noise_after).astype(np.float32),
        flooded=flooded.astype(np.float32),
        mask=np.broadcast_to(flooded.reshape(-1, 1, 1), (count, 8, 8)),
        known=np.ones((count, 8, 8), np.bool_),
        events=tuple("B" if s else "A" for s in sea),
    )


def test_the_fitted_model_tells_new_water_from_fields_and_from_the_sea() -> None:
    how = FloodFit(draws=1)
    model = fit_flood_model(examples_of(tiles(300), BANDS, how, np.random.default_rng(0)), how)
    held_out = examples_of(tiles(200, seed=1), BANDS)
    odds = model.of_change(held_out.after, held_out.before)
    flooded = held_out.flooded == 1
    assert odds[flooded].min() > odds[~flooded].max()
    # From one look the sea is a flood: only the earlier look tells them apart.
    now = model.of_look(held_out.after)
    sea = held_out.events == "B"
    assert now[sea].mean() > now[~flooded & ~sea].max()


def test_a_part_flooded_tile_is_no_example_of_either() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 5)).astype(np.float32)
    flooded = np.repeat([0.0, 0.1, 0.5], 20).astype(np.float32)
    whole = FloodExamples(before=features, after=features + 1, flooded=flooded, events=np.full(60, "A"))
    other = features.copy()
    other[20:40] += 50.0
    changed = FloodExamples(
        before=features,
        after=np.where((flooded == 0.1)[:, None], other, features + 1),
        flooded=flooded,
        events=whole.events,
    )
    np.testing.assert_allclose(fit_flood_model(whole, FloodFit()).now, fit_flood_model(changed, FloodFit()).now)


def test_events_are_left_out_whole() -> None:
    examples = examples_of(tiles(100), BANDS)
    rest = examples.of_events(["B"], but=True)
    assert set(rest.events) == {"A"}
    assert len(rest.flooded) + len(examples.of_events(["B"]).flooded) == 100


def test_light_moves_reflectance_and_stays_within_it() -> None:
    pixels = np.full((1, 3, 2, 2), 0.5, dtype=np.float32)
    np.testing.assert_allclose(relit(pixels, 1.2, 0.02), 0.62, rtol=1e-6)
    np.testing.assert_allclose(relit(pixels, 3.0, 0.0), 1.0)
