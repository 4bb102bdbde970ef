from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from engine.flood import FloodModel
from engine.runners.torch import TorchRunner
from engine.scorers.normal import normal_arrays
from engine.tiles import Float32Array
from tests import small_models
from training.evaluate.detectors import SHIPPED, SHIPPED_PAIRED, Detector, subjects_of
from training.flood.fit import features_of

BANDS = small_models.BANDS["sentinel-2"]
TILE = small_models.TILE_PX
NOW = np.asarray([4, 4, -1, 0, 0, -5], dtype=np.float32)
GAIN = np.asarray([6, 4, -1, 0, 0, -3], dtype=np.float32)


@pytest.fixture
def detector(tmp_path: Path) -> Iterator[Detector]:
    x = small_models.tiles(12)
    parts = small_models.parts(
        "sentinel-2",
        denoiser=small_models.denoiser(cond_chans=4),
        golden_cond=np.zeros((3, 4, TILE, TILE), dtype=np.float32),
    )
    bundle = small_models.small_bundle(tmp_path / "small", parts)
    spec = bundle.family("sentinel-2")
    with ExitStack() as stack:
        denoiser, encoder = (
            stack.enter_context(TorchRunner(model))
            for model in (bundle.denoiser_model("sentinel-2"), bundle.encoder_model("sentinel-2"))
        )
        normal = normal_arrays(denoiser, encoder, x, np.ones((12, TILE, TILE), np.bool_), spec.odeed.schedule())
        yield Detector(
            bands=spec.bands,
            sigma_data=spec.sigma_data,
            settings=spec.odeed,
            denoiser=denoiser,
            encoder=encoder,
            arrays={**normal, "flood_now": NOW, "flood_gain": GAIN},
        )


def reflectance(count: int, seed: int) -> Float32Array:
    return np.asarray((small_models.tiles(count, seed) + 1) / 2, dtype=np.float32)


def test_every_subject_scores_each_tile_alone(detector: Detector) -> None:
    """A tile's score does not depend on its neighbours in the call, whatever the scorer."""
    now, earlier = reflectance(3, 1), reflectance(3, 2)
    subjects = subjects_of(detector)
    assert len({subject.name for subject in subjects}) == len(subjects)
    assert {"control", "unpaired", "paired"} == {subject.kind for subject in subjects}
    for subject in subjects:
        scores, maps = subject.score(now, earlier)
        assert scores.shape == (3,)
        assert np.isfinite(scores).all(), subject.name
        assert maps is None or maps.shape == (3, TILE, TILE)
        (alone,), _ = subject.score(now[1:2], earlier[1:2])
        np.testing.assert_allclose(alone, scores[1], rtol=2e-3, atol=1e-4, err_msg=subject.name)


def test_symmetric_scores_are_those_that_ignore_which_look_came_first(detector: Detector) -> None:
    now, earlier = reflectance(3, 1), reflectance(3, 2)
    for subject in subjects_of(detector):
        if subject.paired is not None:
            forth, _ = subject.score(now, earlier)
            back, _ = subject.score(earlier, now)
            assert subject.symmetric == np.allclose(forth, back, rtol=1e-4, atol=1e-6), subject.name


def test_the_shipped_rows_are_the_engines_own_decision(detector: Detector) -> None:
    now, earlier = reflectance(4, 1), reflectance(4, 2)
    by_name = {subject.name: subject for subject in subjects_of(detector)}
    model = FloodModel(now=NOW, gain=GAIN)
    a, b = features_of(now, BANDS), features_of(earlier, BANDS)
    np.testing.assert_array_equal(by_name[SHIPPED].score(now, earlier)[0], model.of_look(a))
    np.testing.assert_array_equal(by_name[SHIPPED_PAIRED].score(now, earlier)[0], model.of_change(a, b))


def test_the_condition_matters_and_without_one_the_network_is_the_plain_one(detector: Detector) -> None:
    now, earlier = reflectance(3, 1), reflectance(3, 2)
    by_name = {subject.name: subject for subject in subjects_of(detector)}
    plain, _ = by_name["odeed"].score(now, earlier)
    conditional, _ = by_name["odeed-conditional"].score(now, earlier)
    contrast, _ = by_name["odeed-contrast"].score(now, earlier)
    assert not np.allclose(plain, conditional, rtol=1e-3)
    np.testing.assert_allclose(contrast, np.log(conditional) - np.log(plain), rtol=1e-3, atol=1e-4)


def test_scorers_whose_arrays_a_bundle_lacks_are_left_out(detector: Detector) -> None:
    bare = Detector(**{**detector.__dict__, "arrays": {}})
    names = {subject.name for subject in subjects_of(bare)}
    assert {"odeed", "one-step", "path-length"} <= names
    assert not names & {"msma", "diffpath", "feature-knn", SHIPPED, SHIPPED_PAIRED, "mean-colour"}
