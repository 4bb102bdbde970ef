"""The trunk behind one patch embedding or one for each sensor: exact against the network that is served of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.vit import VisionTransformer, VitConfig
from training.align.alignment import Alignment
from training.align.trunk import SensorTrunk, quiet_residuals
from training.encoder_presets import XstarsPreset, physical_sensor
from training.errors import RunInvalid
from training.running.distributed import ALONE
from training.running.runfolder import RunFolder, write_run
from training.running.serving import build_encoder

VIT = VitConfig(img_size=16, patch_size=8, dim=8, depth=2, heads=2)
SENSORS = ("sentinel-2", "sentinel-1")


def trunk(embedding: str = "per-sensor") -> SensorTrunk:
    torch.manual_seed(0)
    made = SensorTrunk.fresh(XstarsPreset(name="t", vit=VIT, patch_embedding=embedding), SENSORS).eval()
    if embedding == "per-sensor":
        with torch.no_grad():
            made.patch_embeds["sentinel-1"].weight.mul_(-2)  # type: ignore[operator, union-attr]
    return made


def tiles(count: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_each_sensor_passes_its_own_patch_embedding_and_order_is_kept() -> None:
    made, a, b = trunk(), tiles(2), tiles(3, seed=2)
    cls, tokens = made([("sentinel-1", a), ("sentinel-2-later", b)])
    patches = torch.cat([made.patch_embeds["sentinel-1"](a), made.patch_embeds["sentinel-2"](b)])
    torch.testing.assert_close((cls, tokens), made.vit.encode(patches), rtol=0, atol=0)
    assert not torch.equal(made([("sentinel-1", b)])[0], made([("sentinel-2", b)])[0])


def test_with_a_shared_embedding_it_is_the_network_itself() -> None:
    made, a = trunk("shared"), tiles(4)
    torch.testing.assert_close(made([("aerial", a[:1]), ("anything", a[1:])]), made.vit(a), rtol=0, atol=0)
    assert set(made.served()) == set(VisionTransformer.from_config(VIT).state_dict())


def test_a_sensor_without_an_embedding_is_named() -> None:
    with pytest.raises(RunInvalid, match=r"patch embedding of 'aerial'.*sentinel-2, sentinel-1"):
        trunk()([("aerial-coarse", tiles(1))])


def test_every_sensor_can_be_served_from_a_run(tmp_path: Path) -> None:
    made, a = trunk(), tiles(2)
    write_run(tmp_path, {"kind": "xstars", "preset": {"vit": VIT.to_dict()}, "steps": 1}, made.served())
    run = RunFolder.open(tmp_path, "xstars")
    half = {name: value.half().float() for name, value in made.state_dict().items()}
    made.load_state_dict(half)
    for sensor in SENSORS:
        torch.testing.assert_close(build_encoder(run, sensor)(a), made([(sensor, a)]), rtol=0, atol=0)
    torch.testing.assert_close(build_encoder(run)(a), made([("sentinel-2", a)]), rtol=0, atol=0)
    with pytest.raises(RunInvalid, match=r"'aerial', but of sentinel-1, sentinel-2"):
        build_encoder(run, "aerial")


def test_each_embedding_sees_its_own_sensors_moments() -> None:
    made, a = trunk(), tiles(4)
    plain = {name: made.patch_embeds[name](a) for name in SENSORS}
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.4, 0.25]
    made.standardise({"sentinel-1": (mean, std)}, ([0.0] * 3, [1.0] * 3))
    lifted = a * torch.tensor(std).reshape(1, 3, 1, 1) + torch.tensor(mean).reshape(1, 3, 1, 1)
    torch.testing.assert_close(made.patch_embeds["sentinel-1"](lifted), plain["sentinel-1"], rtol=0, atol=1e-5)
    torch.testing.assert_close(made.patch_embeds["sentinel-2"](a), plain["sentinel-2"], rtol=0, atol=0)


def test_quiet_residuals_pass_patches_on_as_they_are_and_still_learn() -> None:
    vit = VisionTransformer.from_config(VIT)
    quiet_residuals(vit)
    a = tiles(2)
    hidden = (vit.patch_embed(a) + vit.pos_grid).flatten(2).transpose(1, 2)
    torch.testing.assert_close(vit(a)[1], vit.norm(hidden), rtol=0, atol=1e-6)
    vit(a)[1][0, 0, 0].backward()
    assert all(block.mlp[2].weight.grad.abs().sum() > 0 for block in vit.blocks)


def test_a_shared_head_is_one_module_under_every_name() -> None:
    preset = XstarsPreset(name="t", vit=VIT, msad_dim=4)
    apart = Alignment(SENSORS, preset, ALONE, "fp32")
    one = Alignment(SENSORS, XstarsPreset(name="t", vit=VIT, msad_dim=4, shared_head=True), ALONE, "fp32")
    assert one.heads["sentinel-1"] is one.heads["sentinel-2"]
    assert len(list(one.parameters())) * 2 == len(list(apart.parameters()))


def test_roles_in_a_pair_do_not_make_another_sensor() -> None:
    names = ("sentinel-2-later", "aerial-coarse", "aerial-earlier", "sentinel-1")
    assert [physical_sensor(name) for name in names] == ["sentinel-2", "aerial", "aerial", "sentinel-1"]
