"""The encoder: shapes, positions for other sizes, stochastic depth, and the sizes of its presets."""

from __future__ import annotations

import pytest
import torch

from engine.errors import InputMismatch
from engine.vit import PRESETS, DropPath, VisionTransformer, VitConfig, preset


def small(**changes: object) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer.from_config(
        VitConfig(**{"img_size": 32, "patch_size": 8, "dim": 16, "depth": 2, "heads": 2, **changes})
    )


def test_one_token_a_patch_in_row_major_order() -> None:
    # With attention and MLPs silenced a token depends on its own patch alone, so a lit patch names its index.
    model = small().eval()
    for block in model.blocks:
        for layer in (block.attn.proj, block.mlp[2]):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    dark = torch.zeros(1, 3, 32, 32)
    lit = dark.clone()
    lit[:, :, 8:16, 24:32] = 1.0  # patch row 1, column 3
    changed = (model(lit)[1] - model(dark)[1]).abs().amax(dim=-1)[0] > 1e-6
    assert changed.nonzero().flatten().tolist() == [1 * 4 + 3]


def test_positions_at_the_native_size_are_the_learned_ones() -> None:
    model = small()
    assert model.positions(4, 4) is model.pos_grid
    # Interpolating to the same size is the identity too, so a size next to native is no cliff.
    again = torch.nn.functional.interpolate(model.pos_grid, size=(4, 4), mode="bicubic", align_corners=False)
    torch.testing.assert_close(again, model.pos_grid)


def test_positions_keep_their_place_at_twice_the_size() -> None:
    model = small()
    with torch.no_grad():
        model.pos_grid.copy_(torch.arange(4.0).expand(1, 16, 4, 4))
    ramp = model.positions(4, 8)
    # A ramp over columns stays one: rising, the same in all rows, and point-symmetric about its middle, 1.5.
    assert bool((ramp.diff(dim=-1) > 0).all())
    torch.testing.assert_close(ramp, ramp[:, :, :1].expand_as(ramp))
    torch.testing.assert_close(ramp + ramp.flip(-1), torch.full_like(ramp, 3.0))


def test_other_and_oblong_sizes_embed() -> None:
    cls, tokens = small()(torch.zeros(2, 3, 16, 48))
    assert (cls.shape, tokens.shape) == ((2, 16), (2, 2 * 6, 16))


@pytest.mark.parametrize("shape", [(1, 4, 32, 32), (1, 3, 32, 30), (3, 32, 32)])
def test_a_wrong_input_names_both_sides(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputMismatch, match=r"expected|multiples"):
        small()(torch.zeros(shape))


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer = DropPath(0.25).train()
    out = layer(torch.ones(4000, 2, 3))
    per_sample = out.reshape(4000, -1)
    assert bool((per_sample == per_sample[:, :1]).all())
    assert sorted(set(per_sample[:, 0].tolist())) == pytest.approx([0.0, 1 / 0.75])
    assert float(per_sample.mean()) == pytest.approx(1.0, abs=0.05)


def test_stochastic_depth_is_off_in_eval_mode_and_on_in_training() -> None:
    model = small(drop_path=0.5)
    x = torch.randn(8, 3, 32, 32)
    model.eval()
    torch.testing.assert_close(model(x)[0], model(x)[0], rtol=0, atol=0)
    model.train()
    assert not torch.equal(model(x)[0], model(x)[0])


@pytest.mark.parametrize(("name", "millions"), [("tiny", 5.5), ("small", 21.7), ("base", 85.8), ("large", 303.3)])
def test_presets_have_the_published_numbers_of_parameters(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = VisionTransformer.from_config(preset(name, img_size=224))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_configurations_round_trip_and_refuse_the_unknown() -> None:
    config = preset("tiny", img_size=64, in_chans=4)
    assert VitConfig.from_dict(config.to_dict()) == config
    with pytest.raises(InputMismatch, match="depht"):
        VitConfig.from_dict({"depht": 3})
    with pytest.raises(InputMismatch, match=", ".join(PRESETS)):
        preset("huge")
    with pytest.raises(InputMismatch, match="multiple of patch_size"):
        VitConfig(img_size=30)
