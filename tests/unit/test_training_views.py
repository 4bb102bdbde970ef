"""DINO's views: what is drawn, what is resized, and what each process shows of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from training.align.views import Groups, ViewRanges, multi_crop, resized
from training.data.pool import ImagePool, turn
from training.encoder_presets import ENCODERS

PRESET = replace(ENCODERS["tiny"], tile_px=16, local_px=8, source_px=24, batch=5)
PLAIN = ViewRanges(gain=0.0, band_gain=0.0, offset=0.0, blur=0.0)


def pools(*bands: int) -> list[ImagePool]:
    rng = np.random.default_rng(0)
    return [
        ImagePool(
            images=list(rng.integers(1, 255, (2, 30, 40, count), dtype=np.uint8)),
            gains=(1 / 255,) * count,
            sensor=f"sensor{k}",
        )
        for k, count in enumerate(bands)
    ]


@pytest.mark.parametrize(("crop", "size"), [(20, 16), (7, 16), (16, 16), (23, 8)])
def test_a_crop_is_resized_as_torch_does_it_with_antialiasing(crop: int, size: int) -> None:
    image = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    down, right = 1, 24 - crop
    expected = F.interpolate(
        image[..., down : down + crop, right:], size=(size, size), mode="bilinear", align_corners=False, antialias=True
    )
    place = (torch.tensor([float(number)]) for number in (down, right, crop))
    found = resized(image, *place, size, flips=torch.zeros(1, 3, dtype=torch.bool))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_flips_are_the_eight_symmetries_of_the_square() -> None:
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    zero, side = torch.zeros(8), torch.full((8,), 3.0)
    flips = torch.tensor([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]).bool()
    found = resized(image.expand(8, 1, 3, 3), zero, zero, side, 3, flips=flips)
    expected = {turn(image[0, 0].numpy(), which).tobytes() for which in range(8)}
    assert {np.ascontiguousarray(one[0].round().numpy()).tobytes() for one in found} == expected
    assert len(expected) == 8


def test_views_have_their_sides_and_stay_in_range_and_show_every_pool_alike() -> None:
    shown = {"sensor0": 0, "sensor1": 0}
    for index in range(2):
        large, small = multi_crop(np.random.default_rng(index), pools(3, 3), PRESET, ViewRanges(), index=index)
        assert (len(large), len(small)) == (2, 2)
        for views, side in ((large, 16), (small, 8)):
            for view in views:
                assert sum(len(group) for _, group in view) == 5
                assert {group.shape[1:] for _, group in view} == {(3, side, side)}
                assert all(float(group.abs().max()) <= 1 for _, group in view)
        for sensor, group in large[0]:
            shown[sensor] += len(group)
    # Five a step, two pools: three of one, then three of the other.
    assert shown == {"sensor0": 5, "sensor1": 5}


def test_light_alone_tells_two_views_of_one_whole_tile_apart() -> None:
    """Views of the whole window, unlit, are the window's symmetries; lit, they are not."""
    whole = replace(PRESET, global_scale=(1.0, 1.0), tile_px=24, batch=2)
    drawn = {}
    for name, ranges in (("plain", PLAIN), ("lit", ViewRanges())):
        large, _ = multi_crop(np.random.default_rng(3), pools(3), whole, ranges)
        drawn[name] = [sorted(view[0][1][0].flatten().tolist()) for view in large]
    assert drawn["plain"][0] == pytest.approx(drawn["plain"][1], abs=1e-5)
    assert drawn["lit"][0] != pytest.approx(drawn["lit"][1], abs=1e-2)


def rows(views: list[Groups]) -> list[list[torch.Tensor]]:
    return [[sample for _, group in view for sample in group] for view in views]


@pytest.mark.parametrize("bands", [(3, 3), (3, 1, 2)])
def test_processes_show_together_what_one_shows_alone(bands: tuple[int, ...]) -> None:
    def shown(own: slice | None) -> tuple[list[list[torch.Tensor]], list[list[torch.Tensor]]]:
        large, small = multi_crop(np.random.default_rng(5), pools(*bands), PRESET, ViewRanges(), index=1, own=own)
        return rows(large), rows(small)

    whole, parts = shown(None), [shown(slice(0, 2)), shown(slice(2, 5))]
    for kind in range(2):
        for view, expected in enumerate(whole[kind]):
            found = [sample for part in parts for sample in part[kind][view]]
            assert len(found) == 5
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b)
