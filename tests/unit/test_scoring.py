"""The engine as the daemon calls it, against the networks called by hand."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.bundle import ModelBundle
from engine.errors import BundleError, InputMismatch, RunnerUnavailable
from engine.grid import Cell
from engine.ode import karras_sigmas
from engine.scoring import RunnerChoice, SceneScorer
from engine.tiles import Float32Array, Tile, TileBatch
from engine.unet import EDMDenoiser
from tests.small_models import BANDS, TILE_PX, parts, small_bundle, tiles

TORCH = RunnerChoice(runner="torch", device="cpu", threads=1)


def batch(family: str, count: int = 3, *, seed: int = 1, further: tuple[str, ...] = ()) -> TileBatch:
    """Tiles of neighbouring cells; cells run from east to west, so that their ids do not stand in order."""
    bands = BANDS[family]
    rng = np.random.default_rng(seed)
    pixels = np.concatenate(
        [(tiles(count, seed) + 1) / 2, rng.uniform(0, 1, (count, len(further), TILE_PX, TILE_PX)).astype(np.float32)],
        axis=1,
    )
    cells = [Cell(epsg=32629, level=0, tile_px=TILE_PX, col=800 - i, row=9120) for i in range(count)]
    return TileBatch(
        tiles=tuple(
            Tile(
                cell_id=cell.id,
                row=cell.row,
                col=cell.col,
                crs=cell.crs,
                transform=cell.transform,
                size_px=TILE_PX,
                valid_ratio=1.0,
            )
            for cell in cells
        ),
        pixels=pixels.astype(np.float32),
        valid=np.ones((count, TILE_PX, TILE_PX), np.bool_),
        bands=(*bands, *further),
        gsd_m=10.0,
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "small")


@pytest.fixture
def scorer(bundle: ModelBundle) -> Iterator[SceneScorer]:
    with SceneScorer(bundle, TORCH) as opened:
        yield opened


def euler_error(model: EDMDenoiser, x: Float32Array) -> Float32Array:
    """Mean squared error of the ODEED round trip with the small bundle's settings, written out.  (N,)"""
    up = karras_sigmas(3, 0.002, 5.0, 7.0).up
    state = torch.from_numpy(x).double()
    with torch.inference_mode():
        for legs in (up, up[::-1]):
            for now, then in pairwise(legs):
                sigma = torch.full((len(x),), now, dtype=torch.float32)
                slope = (state - model(state.float(), sigma).double()) / now
                state = state + (then - now) * slope
    return ((state.numpy() - x) ** 2).mean(axis=(1, 2, 3))


@pytest.mark.parametrize("family", sorted(BANDS))
def test_a_look_is_what_the_networks_say_of_each_cell(bundle: ModelBundle, scorer: SceneScorer, family: str) -> None:
    given = batch(family)
    look = scorer.look(given, family)
    x = 2 * given.pixels - 1
    with torch.inference_mode():
        cls = bundle.encoder(family)(torch.from_numpy(x))[0].numpy()
    cls /= np.linalg.norm(cls, axis=1, keepdims=True)
    want = euler_error(bundle.denoiser(family), x)
    assert look.cell_ids == tuple(sorted(tile.cell_id for tile in given.tiles))
    for i, tile in enumerate(given.tiles):
        row = look.row(tile.cell_id)
        assert row is not None
        np.testing.assert_allclose(look.cls[row], cls[i], atol=1e-5)
        np.testing.assert_allclose(look.odeed[row], want[i], rtol=1e-3)
        assert look.valid_ratio[row] == 1.0


def test_bands_are_taken_by_name(scorer: SceneScorer) -> None:
    given = batch("aerial", further=("nir",))
    order = [3, 2, 0, 1]
    shuffled = replace(given, pixels=given.pixels[:, order], bands=tuple(given.bands[i] for i in order))
    one, other = scorer.look(given, "aerial"), scorer.look(shuffled, "aerial")
    np.testing.assert_array_equal(one.odeed, other.odeed)
    np.testing.assert_array_equal(one.cls, other.cls)
    np.testing.assert_array_equal(one.water, other.water)


def test_water_is_told_only_where_a_band_tells_it(scorer: SceneScorer) -> None:
    assert np.isnan(scorer.look(batch("aerial"), "aerial").water).all()
    with_nir = scorer.look(batch("aerial", further=("nir",)), "aerial").water
    assert np.isfinite(with_nir).all()
    assert np.isfinite(scorer.look(batch("sentinel-2"), "sentinel-2").water).all()


def test_maps_stand_in_the_order_of_the_batch_and_average_to_the_score(scorer: SceneScorer) -> None:
    given = batch("sentinel-2")
    look, scores = scorer.look_and_maps(given, "sentinel-2")
    for tile, error_map, score in zip(given.tiles, scores.error_map, scores.score, strict=True):
        row = look.row(tile.cell_id)
        assert row is not None
        assert look.odeed[row] == score
        np.testing.assert_allclose(error_map.mean(dtype=np.float64), score, rtol=1e-5)
    assert scores.nfe == 6  # three Euler steps up, three down


def test_an_invalid_pixel_does_not_count(scorer: SceneScorer) -> None:
    given = batch("sentinel-2", 1)
    _, whole = scorer.look_and_maps(given, "sentinel-2")
    valid = given.valid.copy()
    valid[:, : TILE_PX // 2] = False
    look, half = scorer.look_and_maps(replace(given, valid=valid), "sentinel-2")
    np.testing.assert_array_equal(half.error_map[:, : TILE_PX // 2], 0)
    np.testing.assert_allclose(half.score[0], whole.error_map[0, TILE_PX // 2 :].mean(dtype=np.float64), rtol=1e-5)
    assert look.valid_ratio[0] == 0.5


def test_seconds_are_counted_by_stage(bundle: ModelBundle) -> None:
    ticks = iter(range(0, 100, 10))
    seconds: Counter[str] = Counter()
    with SceneScorer(bundle, TORCH, monotonic=lambda: float(next(ticks))) as scorer:
        scorer.look(batch("aerial"), "aerial", seconds)
        scorer.look(batch("aerial"), "aerial", seconds)
    assert seconds == {"embed": 20.0, "score": 20.0}


def test_the_same_tiles_in_other_batches_score_the_same(scorer: SceneScorer) -> None:
    given = batch("sentinel-2", 5)
    together = scorer.look(given, "sentinel-2")
    for i, tile in enumerate(given.tiles):
        alone = scorer.look(given.subset([i]), "sentinel-2")
        row = together.row(tile.cell_id)
        assert row is not None
        np.testing.assert_allclose(alone.odeed[0], together.odeed[row], rtol=1e-3)
        np.testing.assert_allclose(alone.cls[0], together.cls[row], atol=1e-5)


def test_onnxruntime_gives_the_look_that_torch_gives(bundle: ModelBundle, scorer: SceneScorer, tmp_path: Path) -> None:
    given = batch("sentinel-2")
    choice = RunnerChoice(runner="onnxruntime", device="cpu", threads=1, cache_dir=tmp_path)
    with SceneScorer(bundle, choice) as other:
        look = other.look(given, "sentinel-2")
    want = scorer.look(given, "sentinel-2")
    np.testing.assert_allclose(look.odeed, want.odeed, rtol=0.02)
    np.testing.assert_allclose(look.cls, want.cls, atol=1e-4)


def test_threads_share_one_scorer(bundle: ModelBundle) -> None:
    results: list[Float32Array] = []
    with SceneScorer(bundle, TORCH) as scorer:
        threads = [
            threading.Thread(target=lambda: results.append(scorer.look(batch("aerial"), "aerial").odeed))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result, results[0])


def test_what_a_family_needs_is_the_bundles(scorer: SceneScorer) -> None:
    assert scorer.bands("sentinel-2") == ("swir16", "nir", "red")
    np.testing.assert_array_equal(scorer.calibration("aerial")["scores"], np.arange(5))
    for ask in (scorer.bands, scorer.calibration, scorer.open):
        with pytest.raises(BundleError, match="no models for 'sentinel-1'"):
            ask("sentinel-1")


def test_a_missing_band_is_an_error_that_names_it(scorer: SceneScorer) -> None:
    with pytest.raises(InputMismatch, match="swir16"):
        scorer.look(batch("aerial"), "sentinel-2")


def test_networks_that_differ_from_the_golden_batch_never_serve(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = bundle.golden("aerial")
    golden["odeed_score"] = golden["odeed_score"] * 1.1
    monkeypatch.setattr(ModelBundle, "golden", lambda self, family: golden)
    with SceneScorer(bundle, TORCH) as scorer, pytest.raises(RunnerUnavailable, match="drifted"):
        scorer.open("aerial")


def test_a_closed_scorer_opens_anew(bundle: ModelBundle) -> None:
    scorer = SceneScorer(bundle, TORCH)
    with scorer:
        before = scorer.look(batch("aerial"), "aerial")
    again = scorer.look(batch("aerial"), "aerial")
    scorer.close()
    np.testing.assert_array_equal(before.odeed, again.odeed)


def test_heun_settings_of_the_bundle_are_obeyed(tmp_path: Path) -> None:
    settings = replace(parts("aerial").odeed, solver="heun")
    small = small_bundle(tmp_path / "heun", parts("aerial", odeed=settings))
    with SceneScorer(small, TORCH) as scorer:
        _, scores = scorer.look_and_maps(batch("aerial"), "aerial")
    assert scores.nfe == 12
